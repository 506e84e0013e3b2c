"""LPIPS version 0.1 (Zhang et al. 2018, https://arxiv.org/abs/1801.03924): the distance of features
of VGG16 or AlexNet, weighed to agree with people. The numbers of the two networks, and those of
other versions, are not comparable."""

from pathlib import Path

from anchor_jax.evaluation.perceptual import Distance, Network, PerceptualDistance, variable_shapes
from anchor_jax.evaluation.weights import WeightFile, fit, read_torch, torch_name
from anchor_jax.files import file_hash


def _linear(name: str, sha256: str) -> WeightFile:
    origin = (
        "the linear layers of the package lpips with `mkdir -p {folder} && pip download --no-deps"
        " lpips==0.1.4 && unzip -p lpips-0.1.4-*.whl"
        f" lpips/weights/v0.1/{name}.pth > {{folder}}/lpips_{name}.pth`"
    )
    return WeightFile(f"lpips_{name}.pth", sha256, "LPIPS", origin)


# For each network: that of torchvision, and the linear layers of the package lpips.
FILES: dict[Network, tuple[WeightFile, WeightFile]] = {
    "vgg16": (
        WeightFile(
            "vgg16-397923af.pth",
            "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
            "LPIPS",
            "torchvision's weights of VGG16, trained on ImageNet",
        ),
        _linear("vgg", "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"),
    ),
    "alexnet": (
        WeightFile(
            "alexnet-owt-7be5be79.pth",
            "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
            "LPIPS",
            "torchvision's weights of AlexNet, trained on ImageNet",
        ),
        _linear("alex", "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0"),
    ),
}


def load_lpips(folder: Path | None = None) -> tuple[PerceptualDistance, dict[str, str]]:
    """Read the weights, those of VGG16 if both files are there, else those of AlexNet.

    Args:
        folder: the folder of weights, see `WeightFile.path`.

    Returns:
        The distance, and the SHA-256 of each file, which belong beside each number.

    Raises:
        AnchorError: a file is missing, damaged or of another network.
    """
    there = lambda name: [file.path(folder).is_file() for file in FILES[name]]
    name: Network = max(FILES, key=lambda name: (all(there(name)), there(name)[0]))
    paths = [file.find(folder) for file in FILES[name]]
    tensors = {}
    for path in paths:
        tensors |= read_torch(path, "LPIPS", ("classifier.*",))
    network = Distance(name)
    source = f"{paths[0]} and {paths[1].name}: not the weights of LPIPS"
    variables = fit(tensors, variable_shapes(network), torch_name, source)
    return PerceptualDistance(network, variables), {path.name: file_hash(path) for path in paths}
