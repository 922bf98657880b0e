"""Train digits_cnn.onnx, a small PyTorch CNN with a residual block.

pip install torch==2.13.0 onnxscript==0.7.2 onnx==1.23.2 onnxruntime==1.31.1 scikit-learn==1.9.1
"""

import torch
from digits_common import SEED, load_split, write_checked
from torch import Tensor, nn


class Residual(nn.Module):
    """Pre-activation block: the Add splits relevance over two paths, and its BatchNorm follows no convolution.

    torch's exporter folds bn1 below into the convolution before it; this one stays in the file as an operator.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(torch.relu(self.conv1(torch.relu(self.bn(x)))))


class DigitsCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.block = Residual(32)
        self.fc = nn.Linear(32 * 4 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.pool(torch.relu(self.conv2(x)))
        return self.fc(torch.flatten(self.block(x), 1))


def train(model: nn.Module, x: Tensor, y: Tensor, epochs: int = 30, batch: int = 64) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for index in torch.randperm(len(x)).split(batch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[index]), y[index], label_smoothing=0.05).backward()
            optimizer.step()
        schedule.step()


def main() -> None:
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # one thread: sums come in one order, so a rerun gives the same weights
    x_train, x_test, y_train, y_test = load_split()
    images = x_test.reshape(-1, 1, 8, 8)
    model = DigitsCNN()
    train(model, torch.from_numpy(x_train.reshape(-1, 1, 8, 8)), torch.from_numpy(y_train))
    model.eval()
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    print(f"parameters: {sum(p.numel() for p in model.parameters())}")
    program = torch.onnx.export(
        model,
        (torch.from_numpy(images[:2]),),
        dynamo=True,
        opset_version=18,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    assert program is not None
    write_checked(program.model_proto, "digits_cnn.onnx", "logits", images, expected, y_test)


if __name__ == "__main__":
    main()
