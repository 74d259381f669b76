"""The controller: tasks, and the executor that does their turns.

`tasks` is what everybody may do with a task, `executor` accepts turns and does them, `drive` is one of them, `listener` who is told.
"""

from cnap_runner.controller.executor import Executor
from cnap_runner.controller.listener import TaskListener
from cnap_runner.controller.tasks import Tasks

__all__ = ["Executor", "TaskListener", "Tasks"]
