//! What an id is good for: the same operation sent twice is applied once.
//!
//! ```text
//! cargo run --example idempotent_retry -- 127.0.0.1:6468
//! ```
//!
//! A program that must not pay twice even if it dies half-way makes the operation, stores it (its
//! id above all), then sends it; after a restart it sends what it stored again. This example
//! plays that, then shows what happens if an id is used for something else.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "an example shows what it does"
)]

use std::process::ExitCode;

use counterfoil::client::{
    Client, ClientError, Currency, Flags, Found, Operation, Options, ReceiptFlags, ResultCode,
    UserId,
};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let address = arguments.get(1).map_or("127.0.0.1:6468", String::as_str);
    match run(address) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(address: &str) -> Result<(), Box<dyn std::error::Error>> {
    let mut client = Client::connect(address, &Options::default())?;
    let user = UserId::new(43).ok_or("a user is neither 0 nor all ones")?;
    let coins = Currency::new(1).ok_or("a currency is not 0")?;

    // Here a real program writes `id` to its own database, in the transaction that decides to pay.
    let id = client.new_id();
    let pay = Operation::credit(id, user, coins, 250).with_flags(Flags::OPEN_IF_MISSING);

    let first = client.execute(&pay)?;
    println!(
        "first time:  balance {} at {}",
        first.available, first.place
    );

    // The program died before it knew, say. Another life of it, with another connection:
    let mut client = Client::connect(address, &Options::default())?;
    let second = client.execute(&pay)?;
    println!(
        "second time: balance {} at {}",
        second.available, second.place
    );
    if !second.flags.has(ReceiptFlags::REPLAYED) {
        return Err("the second receipt is not flagged as a replay".into());
    }
    if (second.available, second.version, second.place)
        != (first.available, first.version, first.place)
    {
        return Err("the second receipt differs from the first".into());
    }
    println!("applied once: the second receipt is the first one again");

    // `find` shows the same receipt to whoever has only the id left.
    let found = client.find(user, id)?;
    if !matches!(found, Found::Answered(receipt) if receipt.place == first.place) {
        return Err(format!("not found by its id: {found:?}").into());
    }
    println!("found by its id");

    // The same id with another amount is another operation, and an error of the program.
    let other = Operation::credit(id, user, coins, 251);
    match client.execute(&other) {
        Err(ClientError::IdRefused {
            code: ResultCode::IdReused,
            ..
        }) => println!("another amount under the same id: refused, id_reused"),
        answer => return Err(format!("an id was used twice: {answer:?}").into()),
    }
    Ok(())
}
