"""The files of the Horizon tools: stage models and quant_info.json."""
