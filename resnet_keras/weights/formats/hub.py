"""`hf://org/repo`: files of the Hugging Face Hub, kept in the cache of huggingface_hub."""

from resnet_keras.errors import InputError
from resnet_keras.text import reason

# What a repository calls its weights, best first.
_NAMES = ("model.safetensors", "pytorch_model.bin", "model.keras", "model.weights.h5")


def recognises(source: str) -> bool:
    """Whether a source is on the hub; one that was a `Path` has one slash left."""
    return source.startswith("hf:/")


def download(url: str) -> str:
    """Fetch `hf://org/repo` or `hf://org/repo/FILE`, unless the cache has it.

    Returns:
        The path of the file.

    Raises:
        InputError: huggingface_hub is not installed, there are no weights, or no answer.
    """
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
    except ImportError as error:
        raise InputError(
            f"hf:// needs huggingface_hub: pip install 'resnet-keras[hub]'. Received: {url}"
        ) from error
    organisation, *rest = url.removeprefix("hf:").strip("/").split("/", 2)
    names = rest[1:] or _NAMES
    why = ""
    for name in names:
        try:
            return hf_hub_download("/".join([organisation, *rest[:1]]), name)
        except EntryNotFoundError as error:  # also: offline, and not in the cache
            why = reason(error)
        except (HfHubHTTPError, OSError, ValueError) as error:
            why = reason(error)
            break
    raise InputError(f"{url} has none of {', '.join(names)}, or is out of reach. Received: {why}")
