"""Completion: what bash offers after a few letters."""

import shutil
import subprocess
import sys

import pytest

from codesign.cli import main

pytest.importorskip("shtab")

TRY = """
source "$1"; shift
function=$(complete -p codesign | sed 's/.*-F \\([^ ]*\\).*/\\1/')
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 ))
$function codesign "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def script(shell, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--print-completion", shell])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_options_configs_and_files(tmp_path, capsys):
    file = tmp_path / "completion.bash"
    file.write_text(script("bash", capsys))
    (tmp_path / "phone.json").write_text("{}")

    def offered(*words):
        done = subprocess.run(
            ["bash", "-c", TRY, "bash", str(file), "codesign", *words],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
        )
        return done.stdout.split()

    assert offered("wor") == ["workload"]
    assert offered("prune", "a", "b", "--me") == ["--method"]
    assert offered("prune", "a", "b", "--method", "t") == ["taylor"]
    assert offered("search", "quick") == ["quickstart"]
    assert offered("cost", "pho") == ["phone.json"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_know_every_command(shell, capsys):
    from codesign.cli import _COMMANDS

    assert all(command in script(shell, capsys) for command in ("codesign", *_COMMANDS))


def test_an_unknown_shell_is_one_line(capsys):
    assert main(["--print-completion", "ksh"]) == 2
    assert "'bash', 'zsh'" in capsys.readouterr().err


def test_without_shtab_one_line(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["--print-completion", "bash"]) == 2
    assert "pip install shtab" in capsys.readouterr().err
