"""Agreement of annotators with themselves and with each other, and labels that contradict themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from offline_marl.preferences.labels import VALUES, Label


def count_answers(labels: Sequence[Label]) -> dict[str, int]:
    """How often each answer was given."""
    return {answer: sum(label.answer == answer for label in labels) for answer in VALUES if answer != "withdrawn"}


def by_question(labels: Iterable[Label]) -> dict[tuple[str, str], dict[str, list[float]]]:
    """Values of the labels about each pair and target, by annotator, in the order in which these were asked.

    That is no order of rows: a first answer may be corrected after the repeat. Skipped pairs are left out.
    """
    table: dict[tuple[str, str], dict[str, list[float]]] = {}
    for label in sorted(labels, key=lambda label: label.repeat):
        if label.value is not None:
            table.setdefault((label.pair_id, label.target), {}).setdefault(label.annotator, []).append(label.value)
    return table


def contradictions(labels: Iterable[Label]) -> list[tuple[str, str, str]]:
    """Pair, target and annotator wherever one annotator gave one question different labels."""
    return [
        (*question, annotator)
        for question, answers in by_question(labels).items()
        for annotator, values in answers.items()
        if len(set(values)) > 1
    ]


def self_agreement(labels: Iterable[Label]) -> tuple[float | None, int]:
    """Share of repeated questions to which an annotator gave the label of the first time, and how many there were."""
    same = [
        value == values[0]
        for answers in by_question(labels).values()
        for values in answers.values()
        for value in values[1:]
    ]
    return (sum(same) / len(same) if same else None), len(same)


def kappas(labels: Iterable[Label]) -> dict[tuple[str, str], tuple[float | None, int]]:
    """Cohen's kappa of every two annotators on the questions that both answered, and how many these were.

    kappa = (p_o - p_e) / (1 - p_e): agreement beyond that of two who answer as often first, equal and second, but by
    chance; None where both always say the same one thing. Of repeats, each one's first answer counts.
    """
    first = {
        question: {name: values[0] for name, values in answers.items()}
        for question, answers in by_question(labels).items()
    }
    names = sorted({name for answers in first.values() for name in answers})
    made = {}
    for index, one in enumerate(names):
        for other in names[index + 1 :]:
            both = [(answers[one], answers[other]) for answers in first.values() if {one, other} <= answers.keys()]
            if both:
                made[one, other] = (_kappa(both), len(both))
    return made


def _kappa(answers: Sequence[tuple[float, float]]) -> float | None:
    count = len(answers)
    observed = sum(one == other for one, other in answers) / count
    expected = (
        sum(
            sum(pair[0] == value for pair in answers) * sum(pair[1] == value for pair in answers)
            for value in (0.0, 0.5, 1.0)
        )
        / count**2
    )
    return None if expected == 1.0 else (observed - expected) / (1 - expected)
