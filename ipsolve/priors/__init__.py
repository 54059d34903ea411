"""Diffusion priors."""

from ipsolve.priors.base import MeteredPrior, Prior
from ipsolve.priors.context import Context
from ipsolve.priors.mixtures.fitted_mixture import FittedMixtureSpec
from ipsolve.priors.mixtures.gaussian_mixture import GaussianMixture
from ipsolve.priors.mixtures.mixture import MixturePrior, MixtureSpec
from ipsolve.priors.networks.consistency import ConsistencySpec
from ipsolve.priors.networks.flux import FluxPrior, FluxSpec
from ipsolve.priors.networks.latent import LatentPrior, LatentSpec
from ipsolve.priors.networks.pixel import PixelPrior, PixelSpec
from ipsolve.priors.networks.stable_diffusion import StableDiffusionSpec
from ipsolve.priors.networks.text_prior import PromptedPrior, TextPrior
from ipsolve.priors.networks.unet import Execution
from ipsolve.priors.schedules import DiscreteSchedule, Edm, FlowMatching, Level, Schedule, cosine, linear, scaled_linear
from ipsolve.priors.spec import PRIORS, PriorSpec, PriorSummary, load_prior, prior_spec, prior_summary

__all__ = [
    "PRIORS",
    "ConsistencySpec",
    "Context",
    "DiscreteSchedule",
    "Edm",
    "Execution",
    "FittedMixtureSpec",
    "FlowMatching",
    "FluxPrior",
    "FluxSpec",
    "GaussianMixture",
    "LatentPrior",
    "LatentSpec",
    "Level",
    "MeteredPrior",
    "MixturePrior",
    "MixtureSpec",
    "PixelPrior",
    "PixelSpec",
    "Prior",
    "PriorSpec",
    "PriorSummary",
    "PromptedPrior",
    "Schedule",
    "StableDiffusionSpec",
    "TextPrior",
    "cosine",
    "linear",
    "load_prior",
    "prior_spec",
    "prior_summary",
    "scaled_linear",
]
