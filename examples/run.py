"""Run an example with other values of the constants at its top.

``python examples/run.py plot_challenge_1 --n-subjects 4 --n-epochs 1`` runs
``plot_challenge_1.py`` with N_SUBJECTS = 4 and N_EPOCHS = 1. There is an
option for each constant in upper case that is a number, a text or a list of
these; ``python examples/run.py plot_challenge_1 --help`` lists them.
"""

import argparse
import ast
import sys
import types
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent


def find_constants(tree):
    """Find the constants that a script assigns literally.

    Parameters
    ----------
    tree : ast.Module
        The parsed script.

    Returns
    -------
    constants : dict of str to (ast.Assign, object)
        Assignment and value of each constant, in the order of the script.
    """
    constants = {}
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)]) if name.isupper():
                try:
                    value = ast.literal_eval(statement.value)
                except ValueError:  # it is computed
                    continue
                if _type_of(value) is not None:
                    constants[name] = statement, value
    return constants


def _type_of(value):
    """Return the type of an option's values, None if it is no option."""
    if isinstance(value, list):
        kinds = {_type_of(item) for item in value}
        return kinds.pop() if len(kinds) == 1 else None
    kind = type(value)
    return kind if kind in (int, float, str) else None


def make_parser(name, tree):
    """Make a parser with an option for each constant.

    Parameters
    ----------
    name : str
        Name of the example.
    tree : ast.Module
        The parsed script.

    Returns
    -------
    parser : argparse.ArgumentParser
        Its results have the names of the constants.
    """
    parser = argparse.ArgumentParser(
        prog=f"run.py {name}",
        description=ast.get_docstring(tree),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for constant, (_, value) in find_constants(tree).items():
        is_list = isinstance(value, list)
        shown = " ".join(map(str, value)) if is_list else value
        parser.add_argument(
            "--" + constant.lower().replace("_", "-"),
            dest=constant,
            type=_type_of(value),
            nargs="+" if is_list else None,
            default=value,
            help=f"default: {shown}",
        )
    return parser


def run(path, values):
    """Run a script as ``__main__`` with other values of its constants.

    Parameters
    ----------
    path : Path
        The script.
    values : dict of str to object
        Values of constants by name.
    """
    tree = ast.parse(path.read_text(), filename=str(path))
    for name, (statement, _) in find_constants(tree).items():
        new = ast.parse(repr(values[name]), mode="eval").body
        statement.value = ast.copy_location(new, statement.value)
    ast.fix_missing_locations(tree)
    # As in a script that runs directly, pickle finds what it defines.
    main = types.ModuleType("__main__")
    main.__file__ = str(path)
    sys.modules["__main__"] = main
    sys.argv = [str(path)]
    exec(compile(tree, str(path), "exec"), main.__dict__)


def main():
    """Run the example that the command line names."""
    names = sorted(path.stem for path in EXAMPLES.glob("plot_*.py"))
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "example",
        type=lambda text: Path(text).stem,
        choices=names,
        metavar="example",
        help="name of an example, followed by its options",
    )
    parser.epilog = "examples:\n  " + "\n  ".join(names)
    args = parser.parse_args(sys.argv[1:2])
    path = EXAMPLES / f"{args.example}.py"
    options = make_parser(args.example, ast.parse(path.read_text()))
    run(path, vars(options.parse_args(sys.argv[2:])))


if __name__ == "__main__":
    main()
