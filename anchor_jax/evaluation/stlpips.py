"""LPIPS that tolerates shifts of a pixel (Ghildyal and Liu 2022, https://arxiv.org/abs/2207.13686):
convolutions and maxima have a stride of 1, and blurring halves the features. The weights are
complete: those of AlexNet or VGG16, trained as classifiers, and the linear layers."""

from pathlib import Path

from anchor_jax.evaluation.perceptual import Distance, Network, PerceptualDistance, variable_shapes
from anchor_jax.evaluation.weights import WeightFile, fit, read_torch, torch_name
from anchor_jax.files import file_hash


def _file(name: str, sha256: str) -> WeightFile:
    origin = (
        "it from the package stlpips-pytorch with `mkdir -p {folder} && pip download --no-deps"
        f" stlpips-pytorch==0.0.2 && unzip -j stlpips_pytorch-0.0.2-*.whl '*/{name}' -d {{folder}}`"
    )
    return WeightFile(name, sha256, "shift-tolerant LPIPS", origin)


FILES: dict[Network, WeightFile] = {
    "alexnet": _file(
        "alex_shift_tolerant.pth",
        "b356b382f96010f77d085ee8343ecd9fd322d0a56e8de2b2d0549fafcad8b9ee",
    ),
    "vgg16": _file(
        "vgg_shift_tolerant.pth",
        "44597da68f49c1837c100ff52299050f274d102eb102e5837178c79be6f0e250",
    ),
}


def load_stlpips(
    folder: Path | None = None, network: Network = "alexnet"
) -> tuple[PerceptualDistance, dict[str, str]]:
    """Read the weights.

    Args:
        folder: the folder of weights, see `WeightFile.path`.
        network: whose features are compared; the numbers of the two are not comparable.

    Returns:
        The distance, and the file's SHA-256, which belongs beside each number.

    Raises:
        AnchorError: the file is missing, damaged or of another network.
    """
    path = FILES[network].find(folder)
    # The filters of the blurring are the same in every file.
    tensors = read_torch(path, "shift-tolerant LPIPS", ("scaling_layer.*", "*.filt"))
    distance = Distance(network, shift_tolerant=True)
    source = f"{path}: not the weights of shift-tolerant LPIPS"
    variables = fit(tensors, variable_shapes(distance), torch_name, source)
    return PerceptualDistance(distance, variables), {path.name: file_hash(path)}
