r"""SmoothGrad (Smilkov et al. 2017, arXiv:1706.03825), as the paper's authors run it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from xconsensus.committee import Network
from xconsensus.errors import InputError
from xconsensus.explainers.explanation import Explanation, Image
from xconsensus.explainers.lime import check_target


@dataclass(frozen=True)
class SmoothGrad:
    """The mean gradient of the class probability over ``samples`` noisy images.

    ``noise`` is the standard deviation as a fraction of max - min of the normalised image. 0 noise and 1 sample is
    the plain gradient.
    """

    samples: int = 50
    noise: float = 0.1
    target: str = "predicted"
    on_superpixels = False

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise InputError(f"explainer.samples={self.samples}: SmoothGrad needs at least 1")
        if self.noise < 0:
            raise InputError(f"explainer.noise={self.noise} is negative")
        check_target(self.target)

    def passes(self) -> tuple[int, int]:
        return self.samples + 1, self.samples

    def __call__(self, network: Network, image: Image, batch_size: int) -> Explanation:
        """One value a pixel, (H, W): the signed mean over the noise, then absolute, then the sum over channels."""
        device = network.device
        inputs = network.normalise(torch.from_numpy(image.pixels).to(device).permute(2, 0, 1))
        with torch.no_grad():
            probabilities = network(inputs[None]).softmax(1)[0]
        predicted = int(probabilities.argmax())
        target = predicted if self.target == "predicted" else image.label
        deviation = self.noise * (inputs.max() - inputs.min())
        generator = image.generator()
        total = torch.zeros_like(inputs, dtype=torch.float64)
        for start in range(0, self.samples, batch_size):
            count = min(batch_size, self.samples - start)
            # one draw a sample: the values of a larger draw would depend on the batch size
            noise = torch.stack([torch.randn(inputs.shape, generator=generator) for _ in range(count)]).to(device)
            total += gradients(network, inputs + deviation * noise, target).sum(0, dtype=torch.float64)
        values = (total / self.samples).abs().sum(0)
        return Explanation(values.float().cpu(), predicted, float(probabilities[predicted]))


def gradients(network: Network, inputs: Tensor, target: int) -> Tensor:
    """Gradient of the softmax probability of class ``target`` by each normalised input, (n, 3, H, W) like them."""
    inputs = inputs.detach().requires_grad_()
    probability = network(inputs).softmax(1)[:, target]
    return torch.autograd.grad(probability.sum(), inputs)[0]
