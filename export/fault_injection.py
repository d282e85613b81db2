"""Shows that the verification catches faults, and lets good exports pass, by making many of both.

    python export/fault_injection.py

makes networks of random weights, exports each, verifies it, then breaks some of the exports in
every way of `graph_faults` and `model_faults`, and verifies those. Writes `fault_injection.json`
and `fault_injection.md`. Exit status: 0 every fault was caught and no good export refused, 1 not.
"""


from training import cli


def parser():
    """Returns the parser; it needs no heavy import, so that --help is immediate."""
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "--good", type=int, default=100, metavar="N", help="good exports (default: %(default)s)"
    )
    parser.add_argument(
        "--each",
        type=int,
        default=6,
        metavar="N",
        help="faults of each kind, on as many networks (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--output", metavar="DIR", default="results/fault_injection", help="default: %(default)s"
    )
    return parser


def main(argv=None):
    """Parses, injects and prints the table."""
    args = parser().parse_args(argv)
    if not 1 <= args.each <= args.good:
        raise cli.InputError(f"--each {args.each}: expected 1 to --good {args.good}")

    from export.fault_trials import run

    run(args.good, args.each, args.seed, args.output)


if __name__ == "__main__":
    cli.run(main)
