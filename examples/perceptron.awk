# A net with one hidden layer learns whether two numbers have the same sign. Usage: awk -v act=relu -v seed=0 -f perceptron.awk
function f(x) {
  if (act == "relu") return x > 0 ? x : 0
  if (act == "tanh") { x = exp(2 * (x > 30 ? 30 : x)); return (x - 1) / (x + 1) }
  if (act == "sigmoid") return 1 / (1 + exp(-x))
  print "unknown activation " act > "/dev/stderr"; exit 2
}
function slope(x, y) { return act == "relu" ? (x > 0) : act == "tanh" ? 1 - y * y : y * (1 - y) }
function draw() { a = 2 * rand() - 1; b = 2 * rand() - 1; want = a * b > 0 ? 1 : -1 }
function forward(  i) {
  out = bias
  for (i = 1; i <= H; i++) { z[i] = u[i] * a + v[i] * b + c[i]; h[i] = f(z[i]); out += w[i] * h[i] }
}
BEGIN {
  srand(seed + 1); H = 8; lr = 0.05
  for (i = 1; i <= H; i++) { u[i] = 2 * rand() - 1; v[i] = 2 * rand() - 1; c[i] = rand() - 0.5; w[i] = rand() - 0.5 }
  for (step = 1; step <= 20000; step++) {
    draw(); forward(); error = out - want
    for (i = 1; i <= H; i++) {
      back = error * w[i] * slope(z[i], h[i])
      w[i] -= lr * error * h[i]; u[i] -= lr * back * a; v[i] -= lr * back * b; c[i] -= lr * back
    }
    bias -= lr * error
  }
  srand(12345)
  for (n = 1; n <= 2000; n++) { draw(); forward(); right += (out > 0) == (want > 0) }
  printf "{\"test_accuracy\": %.4f}\n", right / 2000
}
