"""Training as the Ascend Model Compression Toolkit for PyTorch has it: its functions, arguments and files.

    create_quant_retrain_config(config.json)   every layer that can be trained
    create_quant_retrain_model                 a module with quantizers; train it in a loop of your own
    (one pass in evaluation writes the record)
    save_quant_retrain_model                   <prefix>_fake_quant_model.onnx, <prefix>_deploy_model.onnx

Layers have the names that they have in your module. A range without clips in the configuration is that of the batch until
`batch_num` batches were seen; with the last of these, IFMR, symmetric, over all of them gives the first clips. Parameters are
clips, scales, weights and biases as they are, and a step computes what it computes in the toolkit (`natural`), so
that rates of a script mean the same.

Two things differ from the toolkit: the module is the deployed graph, so it trains folded batch normalizations, with a
gain for each channel; and the deploy model is standard ONNX with QuantizeLinear and DequantizeLinear.

Source: the public code and documents of AMCT for PyTorch; docs/explanation/training.md.
"""

from calibrant.qat.amct.functions import (
    create_quant_retrain_config,
    create_quant_retrain_model,
    restore_quant_retrain_model,
    save_quant_retrain_model,
)
from calibrant.qat.amct.model import RetrainModel

__all__ = [
    "RetrainModel",
    "create_quant_retrain_config",
    "create_quant_retrain_model",
    "restore_quant_retrain_model",
    "save_quant_retrain_model",
]
