"""Tasks of lm-evaluation-harness: its own, by name, and those that ship, told to it as its own."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from hcviz.errors import HcvizError
from hcviz.io.process import quiet
from hcviz.metrics._tasks import task_file, task_names
from hcviz.runs.rows import Row

BATCH = 64


def harness_task(name: str) -> str | dict[str, Any]:
    """Return a task as the harness takes it: by its name, or, of those that ship, spelt out."""
    if name not in task_names():
        return name
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(task_file(name))}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{context}}",
        "doc_to_choice": "{{options}}",
        "doc_to_target": "{{answer}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }


def harness_rows(
    model: nn.Module, tokenizer: Any, tasks: Sequence[str | dict[str, Any]], limit: int | None
) -> Iterator[Row]:
    """Yield a row for every task and metric; chance is known where options are told.

    Raises:
        HcvizError: If the harness is not installed, does not know a task, or cannot get its data.
    """
    names = [task for task in tasks if isinstance(task, str)]
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise HcvizError(
            f"{', '.join(names) or 'harness=True'} needs lm-evaluation-harness, which is not "
            f"installed. Run: pip install 'hcviz[eval]'. Without it there are "
            f"{', '.join(task_names())}."
        ) from error
    manager = _known(TaskManager)
    unknown = sorted(set(names) - set(manager.all_tasks))
    if unknown:
        raise HcvizError(
            f"There is no task {unknown[0]!r}, neither here ({', '.join(task_names())}) nor in "
            "lm-evaluation-harness: lm-eval ls tasks."
        )
    try:
        with quiet():
            told = simple_evaluate(
                HFLM(pretrained=model, tokenizer=tokenizer, batch_size=BATCH),
                tasks=list(tasks),
                limit=limit,
                task_manager=manager,
                verbosity="ERROR",
            )
    except Exception as error:  # no network, no such data: many unrelated kinds
        raise HcvizError(
            f"lm-evaluation-harness cannot run {', '.join(names) or 'the tasks that ship'}: "
            f"{type(error).__name__}: {error}. The data of its own tasks come from the hub: is "
            "there a network?"
        ) from error
    for task, numbers in told["results"].items():
        samples = told.get("samples", {}).get(task, [])
        counts = [len(sample["filtered_resps"]) for sample in samples]
        guessed = told["configs"].get(task, {}).get("output_type") == "multiple_choice"
        chance = sum(1 / n for n in counts) / len(counts) if counts and guessed else None
        for key, value in numbers.items():
            metric, _, which = key.partition(",")
            if which and not metric.endswith("_stderr") and isinstance(value, int | float):
                error = numbers.get(f"{metric}_stderr,{which}")
                yield {
                    "task": task,
                    "metric": metric if which == "none" else f"{metric}, {which}",
                    "value": float(value),
                    "stderr": error if isinstance(error, float) else None,
                    "chance": chance,
                    "items": len(samples) or None,
                }


@functools.cache
def _known(manager: type) -> Any:
    """Return what tells the harness its tasks; it reads thousands of files."""
    return manager()
