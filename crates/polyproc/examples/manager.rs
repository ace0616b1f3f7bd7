//! An inventory that one process owns and others call: a map of strings, which cannot lie in shared memory.
//!
//! ```sh
//! cargo run --release -p polyproc --example manager
//! ```

#![expect(clippy::print_stdout, reason = "an example")]

use polyproc::{Managed, Manager, Process};
use std::collections::BTreeMap;

#[derive(Default)]
struct Inventory {
    stock: BTreeMap<String, u32>,
    calls: u32,
}

impl Inventory {
    fn new() -> Inventory {
        Inventory::default()
    }

    fn add(&mut self, name: String, count: u32) -> u32 {
        self.calls += 1;
        let stock = self.stock.entry(name).or_default();
        *stock += count;
        *stock
    }

    /// What is not there cannot be taken.
    fn take(&mut self, name: String, count: u32) -> Result<u32, String> {
        self.calls += 1;
        let stock = self.stock.get_mut(&name).ok_or_else(|| format!("there is no {name}"))?;
        *stock = stock.checked_sub(count).ok_or_else(|| format!("there are only {stock} {name}"))?;
        Ok(*stock)
    }
}

fn deliver(inventory: Managed<Inventory>, name: String) -> Result<(), String> {
    for _ in 0..100 {
        inventory.call(Inventory::add, (name.clone(), 2)).map_err(|death| death.to_string())?;
    }
    Ok(())
}

#[polyproc::main]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    // It is made where it will live, and never leaves.
    let inventory = Manager::start_with(Inventory::new, ())?;
    let couriers = ["apples", "pears", "apples"]
        .map(|name| Process::spawn(deliver, (inventory.handle(), name.to_owned())))
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    for courier in couriers {
        courier.join()??;
    }
    // What a method returns is one thing, what becomes of the process another.
    for (name, count) in [("apples", 150), ("pears", 500), ("plums", 1)] {
        match inventory.call(Inventory::take, (name.to_owned(), count))? {
            Ok(left) => println!("took {count} {name}: {left} are left"),
            Err(why) => println!("took nothing: {why}"),
        }
    }
    println!("{} calls", inventory.call(|inventory: &mut Inventory| inventory.calls, ())?);
    Ok(())
}
