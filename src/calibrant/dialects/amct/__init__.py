"""The four configurations of Ascend AMCT: `config.json` and the simplified `.cfg`, each for calibration and for training."""

from calibrant.dialects.amct import (
    cfg,
    common,
    config_json,
    retrain_cfg,
    retrain_json,
    training,
)

DIALECTS = (cfg.DIALECT, config_json.DIALECT, retrain_json.DIALECT, retrain_cfg.DIALECT)

#: What the devices take, under the names that a recipe says.
LIMITS = {"amct": common.LIMITS, "amct-training": training.TRAINING_LIMITS}
