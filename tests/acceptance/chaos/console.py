"""An Erlang node that stays and does what `rabbitmqctl` does, which starts one for each command.

That takes a second of both cores, most of what a fault would cost.
"""

import os
import subprocess

from tests.rabbit import PrivateNode

LOOP = """
Node = list_to_atom(os:getenv("RABBITMQ_NODENAME")),
Answer = fun(Line) ->
    {ok, Tokens, _} = erl_scan:string(Line),
    {ok, Expressions} = erl_parse:parse_exprs(Tokens),
    case rpc:call(Node, erl_eval, exprs, [Expressions, []], 30000) of
        {value, Value, _} -> io:format("ok ~0p~n", [Value]);
        Error -> io:format("error ~0p~n", [Error])
    end
end,
Loop = fun Loop() ->
    case io:get_line("") of
        Line when is_list(Line) ->
            try Answer(Line) catch _:Reason -> io:format("error ~0p~n", [Reason]) end,
            Loop();
        _ -> halt()
    end
end,
Loop().
"""


class ConsoleError(Exception):
    """The node is down, or could not do it."""


class Console:
    """Evaluates expressions on a node of RabbitMQ."""

    def __init__(self, node: PrivateNode) -> None:
        name = f"chaos-{os.getpid()}-{id(node)}@localhost"
        self._process = subprocess.Popen(
            ["erl", "-noshell", "-hidden", "-sname", name, "-eval", LOOP],
            env=node.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def evaluate(self, expression: str) -> str:
        """The value of an expression, as Erlang writes it. Raises `ConsoleError`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(f"{expression}.", file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        result, _, value = answer.strip().partition(" ")
        if result != "ok":
            raise ConsoleError(value or "the console has ended")
        return value

    def close(self) -> None:
        """It ends at the end of its input."""
        self._process.communicate(timeout=20)
