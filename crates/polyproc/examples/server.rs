//! A server that hands its connections to workers: the socket itself travels to the process that answers. A request that
//! crashes costs one connection.
//!
//! ```sh
//! cargo run --release -p polyproc --example server                       # asks itself some questions, and ends
//! cargo run --release -p polyproc --example server -- 127.0.0.1:7878     # serves: try `nc 127.0.0.1 7878`
//! ```

#![expect(clippy::print_stdout, reason = "an example")]

use polyproc::pipe::Descriptor;
use polyproc::{Pool, TaskError};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

/// Answers one connection, line by line. Gives how many lines there were.
fn answer(connection: Descriptor) -> Result<u32, String> {
    let talk = || -> io::Result<u32> {
        let mut connection = TcpStream::from(connection.into_owned());
        let mut lines = 0;
        for line in BufReader::new(connection.try_clone()?).lines() {
            let line = line?;
            if line == "crash" {
                std::process::abort();
            }
            writeln!(connection, "{} (process {})", line.to_uppercase(), std::process::id())?;
            lines += 1;
        }
        Ok(lines)
    };
    talk().map_err(|error| error.to_string())
}

/// Accepts connections for ever, or so many.
fn serve(listener: &TcpListener, pool: &Pool, most: usize) -> io::Result<()> {
    let mut tickets = Vec::new();
    for connection in listener.incoming().take(most) {
        match pool.submit(answer, (Descriptor::new(connection?),)) {
            Ok(ticket) => tickets.push(ticket),
            Err(error) => println!("a connection could not be handed over: {error}"),
        }
        if most == usize::MAX {
            tickets.retain_mut(|ticket| ticket.try_join().map(report).is_none());
        }
    }
    for ticket in tickets {
        report(ticket.join());
    }
    Ok(())
}

fn report(result: Result<Result<u32, String>, TaskError>) {
    match result {
        Ok(Ok(lines)) => println!("{lines} lines were answered"),
        Ok(Err(why)) => println!("a connection broke: {why}"),
        Err(TaskError::Crashed { process, signal, .. }) => println!("{process} crashed, signal {signal}; others go on"),
        Err(other) => println!("{other}"),
    }
}

/// A client: says some lines, and gives the answers.
fn ask(server: SocketAddr, lines: &[&str]) -> io::Result<Vec<String>> {
    let mut connection = TcpStream::connect(server)?;
    for line in lines {
        writeln!(connection, "{line}")?;
    }
    connection.shutdown(Shutdown::Write)?;
    BufReader::new(connection).lines().collect()
}

#[polyproc::main]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pool = Pool::builder().workers(2).build()?;
    if let Some(address) = std::env::args().nth(1) {
        return Ok(serve(&TcpListener::bind(address)?, &pool, usize::MAX)?);
    }
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let clients = std::thread::spawn(move || {
        for lines in [&["hello", "world"][..], &["crash"], &["still there?"]] {
            match ask(address, lines) {
                Ok(answers) if answers.is_empty() => println!("{lines:?}: no answer"),
                Ok(answers) => println!("{lines:?}: {}", answers.join(", ")),
                Err(error) => println!("{lines:?}: {error}"),
            }
        }
    });
    serve(&listener, &pool, 3)?;
    clients.join().map_err(|_| "a client panicked")?;
    Ok(())
}
