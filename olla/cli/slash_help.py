"""The help of the prompt, and the words that Tab completes."""

from __future__ import annotations

from olla.client.replies import THINK_LEVELS
from olla.options import OPTION_SPECS

HELP = """\
Available Commands:
  /set            Set session variables
  /show           Show model information
  /list           List models
  /load <model>   Load another model, and forget the session
  /save <model>   Save the session as a model
  /clear          Clear session context
  /bye            Exit
  /?, /help       Help for a command
  /? shortcuts    Help for keyboard shortcuts

Use \""" to begin a multi-line message.
"""
HELP_SET = """\
Available Commands:
  /set parameter ...     Set a parameter
  /set system <string>   Set system message
  /set history           Enable history
  /set nohistory         Disable history
  /set wordwrap          Enable wordwrap
  /set nowordwrap        Disable wordwrap
  /set format json       Enable JSON mode
  /set noformat          Disable formatting
  /set verbose           Show LLM stats
  /set quiet             Disable LLM stats
  /set think [level]     Think first: high, medium, low, max
  /set nothink           Do not think first
"""
HELP_SHOW = """\
Available Commands:
  /show info         Show details for this model
  /show license      Show model license
  /show modelfile    Show Modelfile for this model
  /show parameters   Show parameters for this model
  /show system       Show system message
  /show template     Show prompt template
"""
HELP_SHORTCUTS = """\
Available keyboard shortcuts:
  Ctrl + a            Move to the beginning of the line (Home)
  Ctrl + e            Move to the end of the line (End)
  Alt + b, Alt + f    Move back or forward by one word
  Ctrl + k            Delete from the cursor to the end of the line
  Ctrl + u            Delete from the cursor to the beginning of the line
  Ctrl + w            Delete the word before the cursor
  Ctrl + j            Begin a new line in the message
  Ctrl + g            Write the message in an editor
  Ctrl + l            Clear the screen
  Tab                 Complete a command that begins with /
  Ctrl + c            Stop the model from responding
  Ctrl + d            Exit (/bye)
  Ctrl + z            Go back to the shell for a while (fg returns)
"""
HELPS = {"set": HELP_SET, "show": HELP_SHOW, "shortcuts": HELP_SHORTCUTS}
SHOWN_PARTS = ("info", "license", "modelfile", "parameters", "system", "template")

_SET_WORDS = (
    *("parameter", "system", "history", "nohistory", "wordwrap", "nowordwrap"),
    *("format", "noformat", "verbose", "quiet", "think", "nothink"),
)
_WORDS = {
    "": ("/set", "/show", "/list", "/load", "/save", "/clear", "/bye", "/exit", "/?", "/help"),
    "/set": _SET_WORDS,
    "/set parameter": tuple(OPTION_SPECS),
    "/set format": ("json",),
    "/set think": THINK_LEVELS,
    "/show": SHOWN_PARTS,
    "/?": tuple(HELPS),
    "/help": tuple(HELPS),
}


def words_after(start: str) -> tuple[str, ...]:
    """The words that may follow these words of an entry."""
    return _WORDS.get(" ".join(start.split()), ())
