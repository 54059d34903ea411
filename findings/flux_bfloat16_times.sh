#!/bin/sh
# diffusers 0.42.1, FluxTransformer2DModel in bfloat16 (torch 2.13.0): how many of 1000 even times the network tells apart.
#
# Seen: its forward casts the time to the dtype of the states before it multiplies it by 1000, so that a bfloat16 network
# has the same output for neighbouring times: 1000 times give about 500 different outputs, and the 500 from 0.5 to 1 fewer
# than 140. In float32 each is its own. SD3Transformer2DModel in bfloat16, whose time is embedded as it comes, tells all
# apart. A sampler of 28 steps does not notice. A method that takes hundreds of steps, or asks for one time between two
# steps, is told one noise level and given another, by up to 2 in 1000.
# ipsolve does as diffusers does here (docs/priors.md); compute.precision: float32 is exact.
# Exits 0 where this is so, 1 where it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 transformers==5.24.0 numpy
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel

torch.manual_seed(0)
flux = FluxTransformer2DModel(
    patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
    joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=(4, 4, 8), guidance_embeds=False,
)
sd3 = SD3Transformer2DModel(
    sample_size=4, patch_size=1, in_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
    joint_attention_dim=8, caption_projection_dim=32, pooled_projection_dim=8, out_channels=4, pos_embed_max_size=8,
)
times = [(i + 1) / 1000 for i in range(1000)]


def told_apart(network, dtype, call):
    network = network.to(dtype).eval()
    with torch.no_grad():
        outputs = [call(network, torch.tensor([t]), dtype).float().numpy().tobytes() for t in times]
    return len(set(outputs)), len(set(outputs[500:]))


def of_flux(network, t, dtype):
    x, text = torch.ones(1, 16, 4, dtype=dtype), torch.ones(1, 3, 8, dtype=dtype)
    return network(hidden_states=x, encoder_hidden_states=text, pooled_projections=text[:, 0], timestep=t,
                   img_ids=torch.zeros(16, 3), txt_ids=torch.zeros(3, 3), return_dict=False)[0]


def of_sd3(network, t, dtype):
    x, text = torch.ones(1, 4, 4, 4, dtype=dtype), torch.ones(1, 3, 8, dtype=dtype)
    return network(hidden_states=x, encoder_hidden_states=text, pooled_projections=text[:, 0], timestep=1000 * t,
                   return_dict=False)[0]


found = {
    "flux float32": told_apart(flux, torch.float32, of_flux),
    "flux bfloat16": told_apart(flux, torch.bfloat16, of_flux),
    "sd3 bfloat16": told_apart(sd3, torch.bfloat16, of_sd3),
}
for name, (all_of_them, upper_half) in found.items():
    print(f"{name}: {all_of_them} of 1000 times told apart, {upper_half} of the upper 500")
exact = found["flux float32"][0] == 1000
sys.exit(0 if exact and found["flux bfloat16"][0] < 600 and found["flux bfloat16"][1] < 140 else 1)
PYTHON
