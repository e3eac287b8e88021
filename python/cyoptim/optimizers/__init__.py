"""The optimizers, one file each: defaults, checks, and the scalars of a step."""

from cyoptim.optimizers.adabelief import AdaBelief
from cyoptim.optimizers.adadelta import Adadelta
from cyoptim.optimizers.adafactor import Adafactor
from cyoptim.optimizers.adafactor_big_vision import AdafactorBigVision
from cyoptim.optimizers.adafactor_hf import AdafactorHF
from cyoptim.optimizers.adagrad import Adagrad
from cyoptim.optimizers.adam import Adam
from cyoptim.optimizers.adam_atan2 import AdamAtan2
from cyoptim.optimizers.adam_mini import AdamMini
from cyoptim.optimizers.adamax import Adamax
from cyoptim.optimizers.adamp import AdamP
from cyoptim.optimizers.adamw import AdamW
from cyoptim.optimizers.adamw_schedule_free import AdamWScheduleFree
from cyoptim.optimizers.adan import Adan
from cyoptim.optimizers.ademamix import AdEMAMix
from cyoptim.optimizers.adopt import ADOPT
from cyoptim.optimizers.asgd import ASGD
from cyoptim.optimizers.came import CAME
from cyoptim.optimizers.dadapt_adam import DAdaptAdam
from cyoptim.optimizers.dadapt_lion import DAdaptLion
from cyoptim.optimizers.dadapt_sgd import DAdaptSGD
from cyoptim.optimizers.grams import Grams
from cyoptim.optimizers.lamb import Lamb
from cyoptim.optimizers.laprop import LaProp
from cyoptim.optimizers.lars import Lars
from cyoptim.optimizers.lbfgs import LBFGS
from cyoptim.optimizers.lion import Lion
from cyoptim.optimizers.mars import MARS
from cyoptim.optimizers.muon import Muon
from cyoptim.optimizers.muon_with_aux_adam import MuonWithAuxAdam
from cyoptim.optimizers.nadam import NAdam
from cyoptim.optimizers.novograd import NovoGrad
from cyoptim.optimizers.prodigy import Prodigy
from cyoptim.optimizers.radam import RAdam
from cyoptim.optimizers.radam_schedule_free import RAdamScheduleFree
from cyoptim.optimizers.rmsprop import RMSprop
from cyoptim.optimizers.rprop import Rprop
from cyoptim.optimizers.sgd import SGD
from cyoptim.optimizers.sgd_schedule_free import SGDScheduleFree
from cyoptim.optimizers.sgdp import SGDP
from cyoptim.optimizers.sign_sgd import SignSGD
from cyoptim.optimizers.sim_ademamix import SimAdEMAMix
from cyoptim.optimizers.sophia import SophiaG
from cyoptim.optimizers.sparse_adam import SparseAdam
from cyoptim.optimizers.stable_adamw import StableAdamW
from cyoptim.optimizers.yogi import Yogi

__all__ = [
    "ADOPT",
    "ASGD",
    "CAME",
    "LBFGS",
    "MARS",
    "SGD",
    "SGDP",
    "AdEMAMix",
    "AdaBelief",
    "Adadelta",
    "Adafactor",
    "AdafactorBigVision",
    "AdafactorHF",
    "Adagrad",
    "Adam",
    "AdamAtan2",
    "AdamMini",
    "AdamP",
    "AdamW",
    "AdamWScheduleFree",
    "Adamax",
    "Adan",
    "DAdaptAdam",
    "DAdaptLion",
    "DAdaptSGD",
    "Grams",
    "LaProp",
    "Lamb",
    "Lars",
    "Lion",
    "Muon",
    "MuonWithAuxAdam",
    "NAdam",
    "NovoGrad",
    "Prodigy",
    "RAdam",
    "RAdamScheduleFree",
    "RMSprop",
    "Rprop",
    "SGDScheduleFree",
    "SignSGD",
    "SimAdEMAMix",
    "SophiaG",
    "SparseAdam",
    "StableAdamW",
    "Yogi",
]
