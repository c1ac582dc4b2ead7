"""The files of the Ascend tools: the fake-quant and the deploy graph, and quant_info.json."""
