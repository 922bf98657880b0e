"""Train digits_flax.onnx, a JAX/Flax CNN in NHWC layout exported with jax2onnx.

pip install jax==0.10.2 flax==0.12.8 optax==0.2.8 jax2onnx==0.17.1 onnx==1.23.2 onnxruntime==1.31.1 scikit-learn==1.9.1
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from digits_common import SEED, load_split, write_checked
from flax import nnx
from jax2onnx import to_onnx


class DigitsCNN(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv1 = nnx.Conv(1, 16, (3, 3), rngs=rngs)  # "SAME" padding, as Flax does by default
        self.conv2 = nnx.Conv(16, 32, (3, 3), rngs=rngs)
        self.conv3 = nnx.Conv(32, 32, (3, 3), rngs=rngs)
        self.fc = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.conv1(x))
        x = nnx.avg_pool(x, window_shape=(2, 2), strides=(2, 2))  # by keyword: jax2onnx accepts nothing else
        x = nnx.relu(self.conv2(x))
        x = nnx.relu(self.conv3(x))
        return self.fc(jnp.mean(x, axis=(1, 2)))  # global average pool over height and width


@nnx.jit
def step(model: DigitsCNN, optimizer: nnx.Optimizer[DigitsCNN], x: jax.Array, y: jax.Array) -> None:
    def loss(model: DigitsCNN) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

    optimizer.update(model, nnx.grad(loss)(model))


def main(epochs: int = 60, batch: int = 64) -> None:
    x_train, x_test, y_train, y_test = load_split()
    x_train, x_test = x_train.reshape(-1, 8, 8, 1), x_test.reshape(-1, 8, 8, 1)
    model = DigitsCNN(nnx.Rngs(SEED))
    steps = len(x_train) // batch
    schedule = optax.cosine_decay_schedule(1e-2, epochs * steps)
    optimizer = nnx.Optimizer(model, optax.adamw(schedule), wrt=nnx.Param)
    order = np.random.default_rng(SEED)
    for _ in range(epochs):
        # A last short batch is dropped: another shape would make jit compile the step again.
        for index in order.permutation(len(x_train))[: steps * batch].reshape(steps, batch):
            step(model, optimizer, x_train[index], y_train[index])
    print(f"parameters: {sum(p.size for p in jax.tree.leaves(nnx.state(model, nnx.Param)))}")
    proto = to_onnx(
        model,
        [("batch", 8, 8, 1)],
        model_name="digits_flax",
        opset=18,
        input_names=["image"],
        output_names=["logits"],
    )
    write_checked(proto, "digits_flax.onnx", "logits", x_test, np.asarray(model(x_test)), y_test)


if __name__ == "__main__":
    main()
