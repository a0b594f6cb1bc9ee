# The same names that .ci/run uses.

check:
    bash .ci/run

test:
    cargo test

fuzz seconds="60":
    bash .ci/fuzz {{seconds}}

chaos *name:
    bash .ci/chaos {{name}}

bench:
    cargo bench

drill *flags:
    cargo run --release -- drill {{flags}}
