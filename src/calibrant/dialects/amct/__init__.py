"""The four configurations of Ascend AMCT: `config.json` and the simplified `.cfg`, each for calibration and for training."""

from calibrant.dialects.amct import cfg, config_json, retrain_cfg, retrain_json

DIALECTS = (cfg.DIALECT, config_json.DIALECT, retrain_json.DIALECT, retrain_cfg.DIALECT)
