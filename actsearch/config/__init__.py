"""From words to a Job: `conf/` composed by Hydra, checked, named, built. The command and Python come in here alike."""
