"""Train digits_mlp.onnx, a scikit-learn MLPClassifier exported with skl2onnx.

pip install scikit-learn==1.9.1 skl2onnx==1.20.0 onnx==1.23.2 onnxruntime==1.31.1
"""

from digits_common import SEED, load_split, write_checked
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.neural_network import MLPClassifier


def main() -> None:
    x_train, x_test, y_train, y_test = load_split()
    # No scaler in front: skl2onnx would write it as ai.onnx.ml.Scaler, not as standard operators.
    model = MLPClassifier(hidden_layer_sizes=(64, 32), alpha=1e-2, max_iter=200, random_state=SEED)
    model.fit(x_train, y_train)
    print(f"parameters: {sum(a.size for a in [*model.coefs_, *model.intercepts_])}")
    proto = to_onnx(
        model,
        initial_types=[("pixels", FloatTensorType([None, 64]))],
        options={"zipmap": False},  # probabilities as one [batch, 10] tensor, not as a sequence of maps
        target_opset=18,
    )
    write_checked(proto, "digits_mlp.onnx", "probabilities", x_test, model.predict_proba(x_test), y_test)


if __name__ == "__main__":
    main()
