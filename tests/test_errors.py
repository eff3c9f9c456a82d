"""Messages of errors: the value, the cure, one line."""

import pytest

from actsearch.activations.catalog import ALIASES, CATALOG
from actsearch.errors import ActSearchError, check_url, hide_password, hide_passwords, nearest, one_line, unknown


def test_is_a_value_error():
    assert issubclass(ActSearchError, ValueError)


def test_unknown_proposes_the_nearest_name():
    error = unknown("activation", "leaky_rleu", ["relu", "leaky_relu", "tanh"], see="See the list.")
    assert str(error) == "unknown activation 'leaky_rleu'. Did you mean 'leaky_relu'? See the list."


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("ReLU", "relu"), ("GELU", "gelu"), ("LeakyReLU", "leaky_relu"), ("Leaky-Relu", "leaky_relu"),
        ("SiLU", "silu"), ("Swish", "swish"), ("SwiGLU", "swiglu"), ("Hard_Swish", "hardswish"), ("ELU", "elu"),
        ("gleu", "gelu"), ("GLEU", "gelu"), ("rleu", "relu"), ("lekay_relu", "leaky_relu"),
        ("mihs", "mish"), ("sotfplus", "softplus"), ("sigmod", "sigmoid"), ("tahn", "tanh"), ("geluu", "gelu"),
    ],
)  # fmt: skip
def test_nearest_overlooks_case_and_signs_and_prefers_exchanged_letters(given, meant):
    assert nearest(given, [*CATALOG, *ALIASES]) == meant
    assert f"Did you mean '{meant}'?" in str(unknown("activation", given, [*CATALOG, *ALIASES]))


@pytest.mark.parametrize(
    ("given", "meant"),
    [("recipe.BatchSize", "recipe.batch_size"), ("recipe.stesp", "recipe.steps"), ("Study.seeds", "study.seeds")],
)
def test_nearest_of_config_keys(given, meant):
    known = ["recipe.steps", "recipe.batch_size", "study.seeds", "study.seed", "recipe.lr"]
    assert nearest(given, known) == meant
    assert nearest("???", known) is None


def test_unknown_lists_a_few_names_when_none_is_near():
    assert str(unknown("norm", "xyz", ["none", "batch"])) == "unknown norm 'xyz'. Choose one of: batch, none."


def test_unknown_does_not_list_many_names():
    assert str(unknown("name", "???", [f"entry{i}" for i in range(13)])) == "unknown name '???'."


@pytest.mark.parametrize("value", [None, 3, ["a"]])
def test_unknown_takes_values_that_are_no_text(value):
    assert f"'{value}'" in str(unknown("kind", value, ["relu"]))


def test_one_line_joins_lines_and_names_the_type():
    assert one_line(KeyError("a\n   b")) == "KeyError: 'a\\n b'"
    assert one_line(RuntimeError("first\n\n  second ")) == "RuntimeError: first second"


def test_one_line_cuts_long_messages():
    assert one_line(ValueError("x" * 1000)) == "ValueError: " + "x" * 300 + " …"


def test_one_line_of_an_error_without_message_is_its_type():
    assert one_line(TimeoutError()) == "TimeoutError"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql+psycopg://me:secret@host:5/db", "postgresql+psycopg://me:***@host:5/db"),
        ("postgresql+psycopg://me:s%40cret@host/db", "postgresql+psycopg://me:***@host/db"),
        ("postgresql+psycopg://me:sec@ret@host/db", "postgresql+psycopg://me:***@host/db"),
        ("postgresql+psycopg://me:sec/ret@host/db", "postgresql+psycopg://me:***@host/db"),
        ("postgresql://me:secret/db", "postgresql://me:***/db"),
        ("postgresql://:secret@host/db", "postgresql://:***@host/db"),
        ("postgresql://host/db?user=me&password=secret", "postgresql://host/db?user=me&password=***"),
        ("postgresql://host:1/db?password=sec@ret", "postgresql://host:***"),
        ("https://host/x?token=secret&a=b", "https://host/x?token=***&a=b"),
        ("http://secret@host:5000", "http://***@host:5000"),
        ("http://me:sec/ret@host:5000", "http://***@host:5000"),
        ("mssql+pyodbc:///?odbc_connect=PWD%3Dsecret", "mssql+pyodbc:///?odbc_connect=***"),
    ],
)
@pytest.mark.parametrize("text", ["{}", "storage.url={}", "it says '{}' twice: \"{}\"", '{{"a":"{}","b":"c@d"}}'])
def test_a_password_is_never_shown(url, shown, text):
    assert hide_password(text.format(url, url)) == text.format(shown, shown)
    assert str(ActSearchError(url)) == shown


@pytest.mark.parametrize(
    "text",
    [
        "postgresql+psycopg://me@host/db", "sqlite:////a/b.db", "sqlite:///a@b:c.db", "http://127.0.0.1:5000/a@b",
        "http://[::1]:5000/", "https://medium.com/@me/x", "postgresql://host:5432/db", "data.n_tokens=256, a@b",
        '{"u":"http://x.org:80/","mail":"a@b"}', "mlflow: http://127.0.0.1:5000/#/experiments/1/runs?viewState=ab",
    ],
)  # fmt: skip
def test_what_holds_no_password_stays(text):
    assert hide_password(text) == text


def test_one_url_may_have_any_character():
    values = {"url": "postgresql://me:se 'cr\"et@host/db", "more": ["a", 3, {"b": "http://se<cret@h"}]}
    hidden = {"url": "postgresql://me:***@host/db", "more": ["a", 3, {"b": "http://***@h"}]}
    assert hide_passwords(values) == hidden


@pytest.mark.parametrize("url", ["postgresql://me:sec@ret@h/d", "postgresql://me:sec ret@h/d", "http://me:sec/ret@h"])
def test_a_password_that_others_would_cut_is_refused(url):
    with pytest.raises(ActSearchError, match=r"a\.b=\w+://\S*\*\*\*@h\S*: in a password write @ as %40"):
        check_url("a.b", url)


def test_a_hidden_password_is_no_password():
    with pytest.raises(ActSearchError, match="stands for a password that was hidden"):
        check_url("a.b", "postgresql://me:***@h/d")


def test_a_known_password_is_hidden_where_another_library_names_it_alone():
    check_url("a.b", "postgresql://me:plan%2Fted-one@h/d")
    said = one_line(RuntimeError("host 'plan/ted-one' is unknown, nor plan%2Fted-one"))
    assert said == "RuntimeError: host '***' is unknown, nor ***"
