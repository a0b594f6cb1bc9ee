//! The smallest whole program: opens an account, credits it, reads it back.
//!
//! ```text
//! cargo run -- dev                              # in one terminal; prints the front's address
//! cargo run --example hello -- 127.0.0.1:6468   # in another
//! ```
//!
//! Ends with 0 if everything was as expected. May be run again and again.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "an example shows what it does"
)]

use std::process::ExitCode;

use counterfoil::client::{
    AccountSettings, Client, ClientError, Currency, Options, ResultCode, UserId,
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
    println!("connected to cluster {}", client.cluster_id());

    let user = UserId::new(42).ok_or("a user is neither 0 nor all ones")?;
    let coins = Currency::new(1).ok_or("a currency is not 0")?;

    // A refusal is an answer, not a failure of the machinery: here it says that an earlier run
    // opened the account.
    match client.open(user, coins, AccountSettings::default()) {
        Ok(_) => println!("opened account {coins} of user {user}"),
        Err(ClientError::Refused {
            code: ResultCode::Exists,
            ..
        }) => println!("account {coins} of user {user} was there already"),
        Err(error) => return Err(error.into()),
    }

    let credited = client.credit(user, coins, 100)?;
    println!(
        "credited 100; balance {}, version {}, logged at {}",
        credited.available, credited.version, credited.place
    );

    let shown = client.get(user, coins)?;
    println!("balance {} at version {}", shown.available, shown.version);
    // Others may use this account too, but nobody takes from it in these examples.
    if shown.available < credited.available || shown.version < credited.version {
        return Err("read less than was acknowledged".into());
    }
    Ok(())
}
