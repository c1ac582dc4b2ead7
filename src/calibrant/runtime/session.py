"""Open ONNX Runtime sessions, with every option in one place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import onnx
import onnx_ir as ir

from calibrant.errors import ConfigValueError, ModelError, did_you_mean
from calibrant.graph.passes.fix_inputs import without_kept_inputs
from calibrant.graph.values import own_copy
from calibrant.runtime.arena import share_arena
from calibrant.runtime.heap import give_back
from calibrant.runtime.lent import Lent, lend
from calibrant.runtime.runtime import CPU, Runtime

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["PROVIDERS", "in_one_piece", "infer", "open_session"]

Array = npt.NDArray[Any]

#: Names accepted by `--provider`, and what ONNX Runtime calls them.
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
}

#: Bytes of a model behind which what opening it took goes back to the system: up to one and a half times its size.
_LARGE = 32 * 2**20

#: What ONNX Runtime (1.20 to 1.32) says where it moved a MaxPool of 4-bit values between their Q and DQ, for which it has no
#: operator. It has no integer kernels for such values in any case, so the file runs as it is written.
_FOUR_BITS = ("Type 'tensor(int4)'", "Type 'tensor(uint4)'")

#: A model of more bytes is written anew for each session, so that no second copy of it stays in memory.
_SEVERAL = 64 * 2**20

#: Protobuf messages end at 2 GiB; a model with more bytes of weights goes through files.
_PROTOBUF_LIMIT = 2**31 - 2**24


def open_session(
    model: str | Path | bytes | onnx.ModelProto | ir.Model,
    *,
    runtime: Runtime = CPU,
    optimize: bool = True,
    spinning: bool = False,
    integers: bool = True,
    profile: Path | None = None,
) -> ort.InferenceSession:
    """Open a session.

    Args:
        model: A path, serialized bytes, or a model in memory.
        runtime: Where it runs.
        optimize: Let ONNX Runtime fuse operators. Off, the arithmetic is that of the graph as written.
        spinning: Let idle threads wait in a busy loop, as a session does by default. It takes up to twice the
            processor time of small operators, and from other threads that have work; on for timings.
        integers: Let ONNX Runtime turn QDQ patterns into integer kernels and move Q and DQ about; off, each
            stands where the graph has it.
        profile: Begin of the name of the file that `session.end_profiling()` writes; None for none.

    Raises:
        ConfigValueError: The provider is unknown or not in the installed ONNX Runtime, or the number of
            threads is not positive.
        ModelError: ONNX Runtime cannot load the model.
    """
    import onnxruntime as ort

    options = _options(runtime, spinning=spinning, profile=profile)
    if not integers:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    providers = _providers(runtime.provider, ort.get_available_providers())
    try:
        session, size = _opened(model, options, providers, packed=spinning, integers=integers)
    except ModelError:
        raise
    except Exception as e:
        text = " ".join(str(e).split())
        if integers and optimize and any(t in text for t in _FOUR_BITS):
            return open_session(
                model, runtime=runtime, spinning=spinning, integers=False, profile=profile
            )
        raise ModelError(f"ONNX Runtime cannot load the model: {text}") from e
    del options
    if size > _LARGE:
        give_back()  # what it was opened from is gone now
    return session


def _options(runtime: Runtime, *, spinning: bool, profile: Path | None) -> ort.SessionOptions:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised
    if runtime.threads is not None:
        if runtime.threads < 1:
            raise ConfigValueError(f"threads is {runtime.threads}; it is 1 or more.")
        options.intra_op_num_threads = runtime.threads
        options.inter_op_num_threads = 1
    if runtime.provider == "cpu" and not spinning:
        share_arena(options)
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # from many outputs backwards, as is usual, it would keep what is between two of them for long
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    return options


def _opened(
    model: str | Path | bytes | onnx.ModelProto | ir.Model,
    options: ort.SessionOptions,
    providers: Sequence[str],
    *,
    packed: bool,
    integers: bool,
) -> tuple[ort.InferenceSession, int]:
    """Open a session; return it, and from how many bytes.

    Args:
        model: The model.
        options: The options; what they hold afterwards may go.
        providers: Where it runs.
        packed: Let kernels put weights into an order of their own.
        integers: Kernels may be those of integers, which need that.
    """
    import onnxruntime as ort

    values: Sequence[ort.OrtValue] = ()
    with ExitStack() as stack:
        lent = Lent()
        if isinstance(model, ir.Model):
            model = _whole(model)
            lent = stack.enter_context(lend(model))
        source = stack.enter_context(_source(model))
        size = len(source) if isinstance(source, bytes) else 0
        if lent.weights:
            assert isinstance(model, ir.Model)
            size += sum(w.nbytes for w in lent.weights.values())
            packed = packed or (integers and _has_quantizers(model))
            on_cpu = list(providers) == [PROVIDERS["cpu"]]
            values = lent.give(options, share=on_cpu and not packed)
            if not packed:
                # float kernels are as fast without weights in an order of their own, which are a second copy
                options.add_session_config_entry("session.disable_prepacking", "1")
        session = ort.InferenceSession(source, options, providers=providers)
    session.lent_weights = values
    return session, size


def _has_quantizers(model: ir.Model) -> bool:
    return any(node.op_type == "DequantizeLinear" for node in model.graph)


def _whole(model: ir.Model) -> ir.Model:
    """Return a model as a session reads it: without inputs that were fixed and are kept, and with all weights at hand."""
    model = without_kept_inputs(model)
    if any(isinstance(w, ir.ExternalTensor) for w in _weights(model)):
        model = own_copy(model)  # bytes do not know where the files of weights are
    return model


def in_one_piece(model: ir.Model) -> bytes | ir.Model:
    """Return a model as bytes from which several sessions can be opened; itself where it is too large, or lies in files.

    Writing a model as bytes takes as long as opening a session of it.

    Raises:
        ModelError: The model cannot be written as ONNX.
    """
    model = without_kept_inputs(model)
    weights = _weights(model)
    outside = any(isinstance(w, ir.ExternalTensor) for w in weights)
    if outside or sum(w.nbytes for w in weights) > _SEVERAL:
        return model
    return _serialized(model)


def _weights(model: ir.Model) -> list[ir.TensorProtocol]:
    found = [v.const_value for g in model.graphs() for v in g.initializers.values()]
    return [w for w in found if w is not None]


def _serialized(model: ir.Model) -> bytes:
    try:
        return bytes(ir.to_proto(model).SerializeToString())
    except Exception as e:
        text = " ".join(str(e).split())
        raise ModelError(f"The model cannot be written as ONNX: {text}") from e


def infer(
    session: ort.InferenceSession,
    names: Sequence[str],
    feeds: Mapping[str, Array],
    options: ort.RunOptions | None = None,
) -> list[Array]:
    """Return some outputs of a session.

    Args:
        session: The session.
        names: Names of outputs.
        feeds: Inputs.
        options: How to run it.

    Raises:
        ModelError: ONNX Runtime cannot run the model on these inputs.
    """
    try:
        outputs: list[Array] = session.run(names, feeds, options)
    except Exception as e:
        shapes = ", ".join(f"'{n}' {x.shape}" for n, x in feeds.items())
        text = " ".join(str(e).split())
        several = min((x.shape[0] for x in feeds.values() if x.ndim), default=0) > 1
        hint = (
            " If the model takes one sample at a time, give a batch size of 1." if several else ""
        )
        raise ModelError(
            f"ONNX Runtime cannot run the model on inputs {shapes}: {text}{hint}"
        ) from e
    return outputs


def _providers(provider: str, available: Sequence[str]) -> list[str]:
    if provider not in PROVIDERS:
        raise ConfigValueError(
            f"Unknown provider '{provider}'. Known: {', '.join(PROVIDERS)}."
            + did_you_mean(provider, PROVIDERS)
        )
    name = PROVIDERS[provider]
    if name not in available:
        raise ConfigValueError(
            f"Provider '{provider}' is not in the installed ONNX Runtime, which has "
            f"{', '.join(available)}."
        )
    return [name] if provider == "cpu" else [name, "CPUExecutionProvider"]


@contextmanager
def _source(model: str | Path | bytes | onnx.ModelProto | ir.Model) -> Iterator[str | bytes]:
    """Give a model as ONNX Runtime takes it: a path, or bytes."""
    if isinstance(model, (str, Path)):
        yield str(model)
    elif isinstance(model, bytes):
        yield model
    elif isinstance(model, onnx.ModelProto):
        yield model.SerializeToString()
    else:
        inside = (w for w in _weights(model) if not isinstance(w, ir.ExternalTensor))
        if sum(w.nbytes for w in inside) <= _PROTOBUF_LIMIT:
            yield _serialized(model)
            return
        with TemporaryDirectory(prefix="calibrant-") as folder:
            path = Path(folder) / "model.onnx"
            ir.save(model, path, external_data="weights.bin")
            yield str(path)
