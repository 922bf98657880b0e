"""Which law each operator obeys, and which of its inputs are asked about: the kinds, written down a second time."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from node_laws import (
    MEASURES,
    Law,
    Node,
    attribute,
    channel_norm,
    factors,
    layer_norm,
    linear,
    log_softmax,
    lp_pool,
    mean_variance_norm,
    move,
    multiply,
    passing,
    product,
    ratio,
    recurrent,
    reduce,
    scale,
    scan,
    select,
    softmax,
    winner,
)


class Row(NamedTuple):
    """data: positions of the explained inputs (None: all). more: other choices. outputs: the law is that of each output."""

    law: Law | None
    data: tuple[int, ...] | None = (0,)
    more: tuple[tuple[int, ...], ...] = ()
    outputs: bool = False


def either(test: Callable[[Node], bool], yes: Law, no: Law) -> Law:
    return lambda n: (yes if test(n) else no)(n)


resize = either(lambda n: attribute(n, "mode", "linear" if n.op == "GridSample" else "nearest") == "nearest", move, linear)
regions = either(lambda n: attribute(n, "mode", "avg") == "max", winner, linear)
extremal = either(lambda n: attribute(n, "reduction", "none") in ("max", "min"), select, linear)
scatter = either(lambda n: attribute(n, "reduction", "none") == "none", move, extremal)
dense = either(lambda n: len(n.active) == 1, linear, product)
BOTH = ((1,), (0, 1))

ROWS: list[tuple[str, Row]] = [
    # LINEAR with a weight
    ("Conv ConvTranspose Gemm DeformConv", Row(linear)),
    ("MatMul Einsum", Row(dense, more=BOTH)),
    # LINEAR without a weight
    ("AveragePool GlobalAveragePool ReduceMean ReduceSum CumSum Col2Im DFT STFT AffineGrid", Row(linear)),
    ("Resize Upsample GridSample", Row(resize)),
    ("RoiAlign", Row(regions)),
    ("RotaryEmbedding", Row(linear)),  # frozen tables: SCALE and SUM, together linear
    ("NegativeLogLikelihoodLoss", Row(linear)),  # MOVE, SCALE and a sum
    # SUM
    ("Add Sub", Row(linear, (0, 1), ((0,), (1,)))),
    ("Sum Mean", Row(linear, None)),
    # PRODUCT, SCALE, RATIO
    ("Mul", Row(either(lambda n: len(n.active) == 1, scale, multiply), more=BOTH)),
    ("Div", Row(either(lambda n: len(n.active) == 1, scale, ratio), more=BOTH)),
    # NORMALIZATION
    ("LayerNormalization", Row(layer_norm)),
    ("GroupNormalization InstanceNormalization", Row(channel_norm)),
    ("MeanVarianceNormalization", Row(mean_variance_norm)),
    ("RMSNormalization LpNormalization LRN BatchNormalization", Row(passing)),
    ("Softmax", Row(softmax)),
    ("LogSoftmax", Row(log_softmax)),
    # POINTWISE
    ("Abs Acos Acosh Asin Asinh Atan Atanh Cast CastLike Celu Clip Cos Cosh Elu Erf Exp Gelu HardSigmoid", Row(passing)),
    ("HardSwish LeakyRelu Log Mish Mod Neg PRelu Pow Reciprocal Relu Selu Shrink Sigmoid Sin Sinh Softplus", Row(passing)),
    ("Softsign Sqrt Swish Tan Tanh ThresholdedRelu DequantizeLinear QuantizeLinear", Row(passing)),
    # MOVE
    ("Reshape Flatten Squeeze Unsqueeze Transpose Slice Gather GatherElements GatherND Expand Tile Pad", Row(move)),
    ("DepthToSpace SpaceToDepth ReverseSequence Trilu Compress Identity Dropout MaxUnpool CenterCropPad", Row(move)),
    ("ArrayFeatureExtractor OptionalGetElement", Row(move)),
    ("Split", Row(move, outputs=True)),
    ("Concat", Row(move, None)),
    ("Where", Row(move, (1, 2), ((1,), (2,)))),
    ("ScatterElements ScatterND Scatter", Row(scatter, (0, 2), ((0,), (2,)))),
    ("TensorScatter", Row(move, (0, 1))),
    # SELECT
    ("MaxPool GlobalMaxPool ReduceMax ReduceMin TopK", Row(select)),
    ("Max Min", Row(select, None, ((0,),))),
    # REDUCE
    (" ".join(MEASURES), Row(reduce)),
    ("LpPool", Row(lp_pool)),
    ("CumProd", Row(factors)),
    # several operators in one: no law, but the relevance of the case that writes them out
    ("Attention FlexAttention LinearAttention", Row(None, (0, 1, 2))),
    ("CausalConvWithState SoftmaxCrossEntropyLoss", Row(None)),
    ("SwiGLU", Row(None, None)),
    # CONTROL FLOW: the node tests add up or multiply what they are given; the loop shifts an input by constants
    ("Scan", Row(scan, None, outputs=True)),
    ("Loop", Row(passing, (2,), outputs=True)),
    ("If SequenceMap", Row(None, None)),
    # no law is written down
    ("LSTM GRU RNN", Row(recurrent, outputs=True)),
    ("Det Hardmax Unique TreeEnsemble DynamicQuantizeLinear", Row(None)),
]
TABLE = {name: row for names, row in ROWS for name in names.split()}

# INERT with float inputs and outputs: nothing flows through, and when that is all there is, it is an error
INERT = frozenset(
    "Floor Ceil Round Sign Bernoulli Range EyeLike OneHot RandomNormalLike RandomUniformLike MelWeightMatrix Binarizer".split()
)
TRAINING = frozenset("Adagrad Adam Momentum".split())
NOISY = frozenset("GRU DFT STFT DeformConv".split())  # what should be 0 is rounding: no relevance is given to it
HEADS = frozenset("Sigmoid Softmax LogSoftmax Cast CastLike".split())  # left out at the end of a model
