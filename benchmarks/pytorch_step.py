"""The BA-LoRA step in PyTorch + PEFT, after the formulas of the paper and of its official code.

The teacher is a second model, logits are whole, and the singular values come from
svd_lowrank(q = k + 5, niter = 2). `step_time` and `throughput` run this file in a process of its
own, to measure its peak memory. For every input line "step" it runs a step on the next batch, and
for every line "product" one matrix product of a layer. It answers each line with one JSON object,
the peak memory so far.
"""

import argparse
import itertools
import json
import resource
import sys
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from benchmarks.sizes import CLASSES, CONFIGS, is_language_model

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# The weight of each term.
TERMS = {"consistency": 0.025, "diversity": 0.005, "svd": 0.005}


def language_loss(
    logits: torch.Tensor, teacher: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Compute the task loss plus the regularizers of the 2026 version over the counted positions.

    Args:
      logits: [tokens, V], the student's.
      teacher: [tokens, V], the teacher's.
      targets: int [tokens].
    """
    top_k = 20
    k = 10
    top = F.log_softmax(logits.topk(top_k, dim=-1).values, dim=-1)
    entropy = -(top.exp() * top).sum(-1).mean()
    _, values, _ = torch.svd_lowrank(logits, q=k + 5, niter=2)
    svd = -values[:k].sum() / torch.linalg.norm(logits)
    task_and_kl = _task_and_kl(logits, teacher, targets)
    return task_and_kl - TERMS["diversity"] * entropy + TERMS["svd"] * svd


def classifier_loss(
    logits: torch.Tensor, teacher: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Compute the task loss plus the regularizers of the 2026 version for a classifier.

    Args:
      logits: [N, D], the student's.
      teacher: [N, D], the teacher's.
      targets: int [N].
    """
    k = 5
    examples, classes = logits.shape
    centered = logits - logits.mean(0)
    covariance = centered.T @ centered / (examples - 1)
    diversity = (covariance - torch.diag(covariance.diag())).square().sum() / classes
    values = torch.linalg.svdvals(logits)
    svd = -values[:k].sum() / values.sum()
    task_and_kl = _task_and_kl(logits, teacher, targets)
    return task_and_kl + TERMS["diversity"] * diversity + TERMS["svd"] * svd


def _task_and_kl(
    logits: torch.Tensor, teacher: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """The cross-entropy plus the weighted consistency term."""
    temperature = 2.0
    log_q = F.log_softmax(logits / temperature, dim=-1)
    p = F.softmax(teacher / temperature, dim=-1)
    kl = F.kl_div(log_q, p, reduction="batchmean") * temperature**2
    return F.cross_entropy(logits, targets) + TERMS["consistency"] * kl


class Texts(NamedTuple):
    """A batch: tokens and attention mask [examples, length], and the targets of what is counted.

    `counted` marks the positions of a language model that the loss counts; None for a classifier.
    """

    ids: torch.Tensor
    attention_mask: torch.Tensor | None
    targets: torch.Tensor
    counted: torch.Tensor | None


def _random_texts(options: argparse.Namespace, language: bool, device: str) -> list[Texts]:
    """One batch of random tokens, every one counted."""
    tokens = torch.randint(
        CONFIGS[options.model].vocab_size, (options.batch, options.length + 1), device=device
    )
    ids = tokens[:, :-1]
    if not language:
        classes = torch.randint(CLASSES, (options.batch,), device=device)
        return [Texts(ids, None, classes, None)]
    counted = torch.ones_like(ids, dtype=torch.bool)
    return [Texts(ids, None, tokens[:, 1:].reshape(-1), counted)]


def _read_texts(path: str, device: str) -> list[Texts]:
    """The batches of a file of numpy arrays, each padded to its longest example."""
    batches = []
    with np.load(path) as arrays:
        for number in range(len(arrays.files) // 4):
            ids, attention_mask, targets, counted = (
                torch.tensor(arrays[f"{name}{number}"], device=device)
                for name in ("input_ids", "attention_mask", "targets", "mask")
            )
            longest = int(attention_mask.sum(-1).max())
            counted = counted[:, :longest]
            batches.append(
                Texts(
                    ids[:, :longest].long(),
                    attention_mask[:, :longest].long(),
                    targets[:, :longest].long()[counted],
                    counted,
                )
            )
    return batches


def main() -> None:
    """Answer the lines of standard input."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--length", type=int, required=True)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--batches", help="a file of batches; by default one of random tokens")
    options = parser.parse_args()
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    language = is_language_model(options.model)
    auto = AutoModelForCausalLM if language else AutoModelForSequenceClassification
    teacher = auto.from_config(CONFIGS[options.model]).to(device).eval().requires_grad_(False)
    student = auto.from_config(CONFIGS[options.model]).to(device)
    student.load_state_dict(teacher.state_dict())
    student = get_peft_model(student, _lora(options.rank, language)).train()
    trainable = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-4, weight_decay=0.0)
    if options.batches:
        texts = _read_texts(options.batches, device)
    else:
        texts = _random_texts(options, language, device)
    following = itertools.cycle(texts)
    loss = language_loss if language else classifier_loss

    def rows(logits: torch.Tensor, batch: Texts) -> torch.Tensor:
        return logits if batch.counted is None else logits[batch.counted]

    def step() -> None:
        batch = next(following)
        inputs = {"input_ids": batch.ids, "attention_mask": batch.attention_mask}
        with torch.no_grad():
            teacher_logits = rows(teacher(**inputs).logits, batch)
        logits = rows(student(**inputs).logits, batch)
        loss(logits, teacher_logits, batch.targets).backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()

    config = CONFIGS[options.model]
    left = torch.randn(options.batch * options.length, config.hidden_size, device=device)
    right = torch.randn(config.intermediate_size, config.hidden_size, device=device)
    commands = {"step": step, "product": lambda: left @ right.T}
    for line in sys.stdin:
        commands[line.strip()]()
        print(json.dumps({"peak_bytes": _peak(device)}), flush=True)


def _lora(rank: int, language: bool) -> LoraConfig:
    targets = TARGETS if language else "all-linear"
    return LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=targets,
        task_type="CAUSAL_LM" if language else "SEQ_CLS",
    )


def _peak(device: str) -> int:
    """The peak memory of the process, or of its GPU, in bytes."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
