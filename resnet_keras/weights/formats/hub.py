"""`hf://org/repo` and `kaggle://...`: what the hubs' own packages download, in their caches."""

from collections.abc import Callable

from resnet_keras.errors import InputError
from resnet_keras.text import reason
from resnet_keras.weights.formats.folder import FACTS, HEAD, NAMES

_KAGGLE = "kaggle:"

# How their URLs begin; one that was a `Path` has one slash left.
_SCHEMES = ("hf:/", f"{_KAGGLE}/")


def recognises(source: str) -> bool:
    """Whether a source is on a hub."""
    return source.startswith(_SCHEMES)


def download(url: str) -> str:
    """Fetch a repository's weights, and the JSON files beside them, unless the cache has them.

    Args:
        url: `hf://org/repo`, `hf://org/repo/FILE`, or a preset of KerasHub,
            `kaggle://owner/model/framework/variation`.

    Returns:
        The path of the file; of the folder, for Kaggle.

    Raises:
        InputError: the hub's package is not installed, there are no weights, or no answer.
    """
    return _kaggle(url) if url.startswith(_KAGGLE) else _hugging_face(url)


def _hugging_face(url: str) -> str:
    """As `download`, by huggingface_hub."""
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
    except ImportError as error:
        raise InputError(
            f"hf:// needs huggingface_hub: pip install 'resnet-keras[hub]'. Received: {url}"
        ) from error

    def fetch(name: str) -> str:
        return hf_hub_download("/".join([organisation, *rest[:1]]), name)

    organisation, *rest = url.removeprefix("hf:").strip("/").split("/", 2)
    names = rest[1:] or NAMES
    why = ""
    for name in names:
        try:
            path = fetch(name)
        except EntryNotFoundError as error:  # also: offline, and not in the cache
            why = reason(error)
        except (HfHubHTTPError, OSError, ValueError) as error:
            why = reason(error)
            break
        else:
            for beside in (*FACTS, *([HEAD] if name == "model.weights.h5" else ())):
                _if_there(fetch, beside, (EntryNotFoundError, HfHubHTTPError, OSError))
            return path
    raise InputError(f"{url} has none of {', '.join(names)}, or is out of reach. Received: {why}")


def _if_there(fetch: Callable[[str], str], name: str, missing: tuple[type[Exception], ...]) -> None:
    """Fetch a file that not every repository has."""
    try:
        fetch(name)
    except missing:
        return


def _kaggle(url: str) -> str:
    """As `download`, by kagglehub."""
    try:
        import kagglehub
    except ImportError as error:
        raise InputError(
            f"kaggle:// needs kagglehub: pip install kagglehub. Received: {url}"
        ) from error
    handle = url.removeprefix(_KAGGLE).strip("/")
    try:
        return kagglehub.model_download(handle)
    except Exception as error:  # its own errors have no common class
        raise InputError(
            f"{url} is not a model of Kaggle, or is out of reach. Received: {reason(error)}"
        ) from error
