//! Accounts in shared memory: transfers by several processes, one of which dies in the middle of one.
//!
//! ```sh
//! cargo run --release -p polyproc --example lock
//! ```

#![expect(clippy::print_stdout, reason = "an example")]

use polyproc::{Abandoned, Guard, Lock, Plain, Process, TaskError};

#[derive(Clone, Copy, Debug, Plain)]
#[repr(C)]
struct Accounts {
    savings: i64,
    current: i64,
    /// What is on its way: money that left one account and has not reached the other.
    moving: i64,
}

/// The accounts of a lock whose last owner died: the money on its way goes back.
fn repair<'a>(mut abandoned: Abandoned<Guard<'a, Accounts>>) -> Guard<'a, Accounts> {
    println!("process {}: {abandoned}", std::process::id());
    let half_done = abandoned.get_mut();
    half_done.savings += half_done.moving;
    half_done.moving = 0;
    abandoned.into_inner()
}

fn transfer(accounts: Lock<Accounts>, times: u32, die_at: u32) {
    for i in 0..times {
        let mut accounts = accounts.lock().unwrap_or_else(repair);
        accounts.savings -= 1;
        accounts.moving += 1;
        if i == die_at {
            std::process::abort();
        }
        accounts.moving -= 1;
        accounts.current += 1;
    }
}

#[polyproc::main]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let accounts = Lock::new(Accounts { savings: 1_000_000, current: 0, moving: 0 })?;
    let never = u32::MAX;
    let processes = [never, 5_000, never]
        .map(|die_at| Process::spawn(transfer, (accounts.clone(), 100_000, die_at)))
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    for process in processes {
        match process.join() {
            Ok(()) => {}
            Err(error @ TaskError::Crashed { .. }) => println!("{error}"),
            Err(other) => return Err(other.into()),
        }
    }
    let accounts = accounts.lock().unwrap_or_else(repair);
    println!("{:?}", *accounts);
    assert_eq!(accounts.savings + accounts.current + accounts.moving, 1_000_000);
    Ok(())
}
