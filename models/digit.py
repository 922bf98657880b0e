"""Write digit.png and digit.npy: one held-out digit, as an 8-bit grey image and as input for digits_cnn.onnx.

pip install numpy pillow onnx==1.23.2 onnxruntime==1.31.1 scikit-learn==1.9.1
"""

import os

import numpy as np
from digits_common import HERE, load_split
from PIL import Image

INDEX = 302  # in the held-out split: a 3 with clean strokes


def main() -> None:
    _, x_test, _, y_test = load_split()
    digit = x_test[INDEX].reshape(1, 1, 8, 8)
    np.save(HERE / ".digit.tmp.npy", digit)
    os.replace(HERE / ".digit.tmp.npy", HERE / "digit.npy")
    Image.fromarray(np.rint(digit[0, 0] * 255).astype(np.uint8)).save(HERE / ".digit.tmp.png")
    os.replace(HERE / ".digit.tmp.png", HERE / "digit.png")
    print(f"held-out digit {INDEX}: a {y_test[INDEX]}")


if __name__ == "__main__":
    main()
