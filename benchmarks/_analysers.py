"""Layer rankings of other tools, run by a Python that has them: `python _analysers.py TOOL MODEL DATA.npz`.

The last line is JSON: seconds that the analysis took (without quantization and imports), and layers, worst first. Scores are
compared at the model's outputs by SQNR of all samples at once; each tool quantizes as its documentation says.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 16


def feeds(path: str) -> list[dict[str, np.ndarray]]:
    """Return the samples in batches."""
    with np.load(path) as data:
        arrays = {n: data[n] for n in data.files}
    count = len(next(iter(arrays.values())))
    return [{n: x[i : i + BATCH] for n, x in arrays.items()} for i in range(0, count, BATCH)]


def sqnr_db(truth: np.ndarray, mine: np.ndarray) -> float:
    """Return the SQNR of all values at once [dB]."""
    error = float(((mine.astype(np.float64) - truth) ** 2).sum())
    return (
        10 * math.log10(float((truth.astype(np.float64) ** 2).sum()) / error) if error else 999.0
    )


def aimet(model: str, data: str) -> dict[str, Any]:
    """One layer's quantizers enabled at a time (aimet_onnx.quant_analyzer)."""
    import aimet_onnx
    import onnx
    import onnxruntime as ort
    from aimet_onnx import QuantizationSimModel
    from aimet_onnx.batch_norm_fold import fold_all_batch_norms_to_weight
    from aimet_onnx.common.quantsim_config.utils import get_path_for_per_channel_config
    from aimet_onnx.quant_analyzer import analyze_per_layer_sensitivity

    batches = feeds(data)
    session = ort.InferenceSession(model)
    truth = np.concatenate([session.run(None, f)[0] for f in batches])
    loaded = onnx.load(model)
    fold_all_batch_norms_to_weight(loaded)
    sim = QuantizationSimModel(
        loaded,
        param_type="int8",
        activation_type="int8",
        quant_scheme="min_max",
        config_file=get_path_for_per_channel_config(),
    )
    sim.compute_encodings(batches)

    def score(s: Any) -> float:
        return sqnr_db(truth, np.concatenate([s.run(None, f)[0] for f in batches]))

    start = time.perf_counter()
    found = analyze_per_layer_sensitivity(sim, score)
    seconds = time.perf_counter() - start
    layers = sorted(found, key=lambda n: found[n])
    return {"tool": f"AIMET {aimet_onnx.__version__}", "seconds": seconds, "layers": layers}


def quark(model: str, data: str) -> dict[str, Any]:
    """All in int8 but one in int16 (the analysis of quark.onnx's automatic mixed precision, without mixing)."""
    import quark as package
    from onnxruntime.quantization import CalibrationDataReader
    from quark.onnx import ModelQuantizer
    from quark.onnx.quantization.config.algorithm import AutoMixprecisionConfig
    from quark.onnx.quantization.config.config import QConfig
    from quark.onnx.quantization.config.spec import (
        CalibMethod,
        Int8Spec,
        Int16Spec,
        QLayerConfig,
        QuantGranularity,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rewind()

        def get_next(self) -> Any:
            return next(self._left, None)

        def rewind(self) -> None:
            self._left = iter(feeds(data))

    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "sensitivity.json"

        def run(algorithms: list[Any]) -> float:
            config = QConfig(
                global_config=QLayerConfig(
                    activation=Int8Spec(symmetric=True, calibration_method=CalibMethod.MinMax),
                    weight=Int8Spec(
                        symmetric=True,
                        calibration_method=CalibMethod.MinMax,
                        quant_granularity=QuantGranularity.Tensor,
                    ),
                ),
                algo_config=algorithms,
                use_external_data_format=False,
                UseRandomData=False,
            )
            start = time.perf_counter()
            ModelQuantizer(config).quantize_model(model, str(Path(folder) / "out.onnx"), Reader())
            return time.perf_counter() - start

        plain = run([])
        mixed = AutoMixprecisionConfig(
            QLayerConfig(activation=Int16Spec(), weight=Int8Spec()),
            metric_optimize_object="quality",
            metric_threshold=None,
            metric_default="sqnr",
            sensitivity_cache_file=str(cache),
        )
        seconds = run([mixed]) - plain
        found = json.loads(cache.read_text())
    rows = found["results"] if isinstance(found, dict) else found
    layers = [r["name"] for r in sorted(rows, key=lambda r: r["score"])]
    return {"tool": f"Quark {package.__version__}", "seconds": seconds, "layers": layers}


if __name__ == "__main__":
    print(json.dumps({"aimet": aimet, "quark": quark}[sys.argv[1]](*sys.argv[2:4])))
