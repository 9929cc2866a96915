"""The same BA-LoRA step in PyTorch + PEFT, written from the paper's formulas as the official code has them.

A second model is the teacher, logits are whole, the singular values come from svd_lowrank(q = k + 5, niter = 2). Run by
step_time.py in a process of its own, so that its peak memory is its own; prints one JSON object.
"""

import argparse
import json
import resource
import time

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from benchmarks.sizes import CONFIGS

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def loss_of(
    logits: torch.Tensor, teacher: torch.Tensor, targets: torch.Tensor, terms: dict[str, float]
) -> torch.Tensor:
    """Task plus the 2026 regularizers over all positions, whole logits [tokens, V]."""
    temperature, top_k, k = 2.0, 20, 10
    task = F.cross_entropy(logits, targets)
    student = F.log_softmax(logits / temperature, dim=-1)
    kl = F.kl_div(student, F.softmax(teacher / temperature, dim=-1), reduction="batchmean") * temperature**2
    top = F.log_softmax(logits.topk(top_k, dim=-1).values, dim=-1)
    entropy = -(top.exp() * top).sum(-1).mean()
    _, values, _ = torch.svd_lowrank(logits, q=k + 5, niter=2)
    svd = -values[:k].sum() / torch.linalg.norm(logits)
    return task + terms["consistency"] * kl - terms["diversity"] * entropy + terms["svd"] * svd


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--length", type=int, required=True)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--repeats", type=int, required=True)
    options = parser.parse_args()
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    teacher = AutoModelForCausalLM.from_config(CONFIGS[options.model]).to(device).eval().requires_grad_(False)
    student = AutoModelForCausalLM.from_config(CONFIGS[options.model]).to(device)
    student.load_state_dict(teacher.state_dict())
    config = LoraConfig(r=options.rank, lora_alpha=options.rank, target_modules=TARGETS)
    student = get_peft_model(student, config)
    trained = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0)
    tokens = torch.randint(CONFIGS[options.model].vocab_size, (options.batch, options.length + 1), device=device)
    inputs, targets = tokens[:, :-1], tokens[:, 1:].reshape(-1)
    terms = {"consistency": 0.025, "diversity": 0.005, "svd": 0.005}

    def step() -> None:
        with torch.no_grad():
            wanted = teacher(input_ids=inputs).logits.flatten(0, 1)
        logits = student(input_ids=inputs).logits.flatten(0, 1)
        loss_of(logits, wanted, targets, terms).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()

    step()
    seconds = []
    for _ in range(options.repeats):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "peak_bytes": peak}))


if __name__ == "__main__":
    main()
