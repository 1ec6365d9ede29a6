"""The command `codes`: its table, and what it refuses."""


def test_the_table_has_a_row_for_each_code(cli):
    shown = cli("codes", "--agents", 3, "--learners", 6, "--lost", "1,3,4")

    assert shown.code == 0
    lines = {line.split()[0]: line.split() for line in shown.out.splitlines()}
    assert lines["uncoded"][1:4] == ["1.00/1", "1.0", "0"]
    assert lines["chebyshev"][1:7] == ["3.00/3", "6.0", "3", "1.000", "1.000", "-"]
    assert lines["replication"][3:6] == ["1", "1.000", "0.400"]
    assert lines["ldpc"][1] == "1.33/2"


def test_a_code_that_does_not_fit_is_named_beneath_the_others(cli):
    shown = cli("codes", "--agents", 8, "--learners", 9)

    assert shown.code == 0
    assert "There is no LDPC code of 9 learners for 8 agents" in shown.out


def test_bad_sizes_and_names_are_one_sentence(cli):
    assert "as many, or more" in cli("codes", "--agents", 8, "--learners", 5).error
    assert "Unknown code 'mds'" in cli("codes", "--agents", 2, "--learners", 5, "--code", "mds").error
    assert "codes needs" in cli("codes").error or "missing" in cli("codes").error
