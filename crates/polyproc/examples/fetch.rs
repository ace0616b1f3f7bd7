//! Fetches files from a web server, several at a time, each with a limit and a second try. One file never comes to an end.
//!
//! The server is a thread of this program, so that the example needs no network; to fetch from elsewhere, give an address
//! (HTTP, no TLS):
//!
//! ```sh
//! cargo run --release -p polyproc --example fetch
//! cargo run --release -p polyproc --example fetch -- 127.0.0.1:8000 /index.html /picture.png
//! ```

#![expect(clippy::print_stdout, reason = "an example")]

use polyproc::prelude::*;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// Gets one file: its bytes, or what was wrong with it.
fn fetch(server: String, path: String) -> Result<Vec<u8>, String> {
    let fetched = || -> io::Result<Vec<u8>> {
        let mut connection = TcpStream::connect(&server)?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: {server}\r\nConnection: close\r\n\r\n");
        connection.write_all(request.as_bytes())?;
        let mut answer = BufReader::new(connection);
        let mut status = String::new();
        answer.read_line(&mut status)?;
        if status.split(' ').nth(1) != Some("200") {
            return Err(io::Error::other(status.trim_end().to_owned()));
        }
        let mut header = String::new();
        while answer.read_line(&mut header)? > 2 {
            header.clear();
        }
        let mut body = Vec::new();
        answer.read_to_end(&mut body)?;
        Ok(body)
    };
    fetched().map_err(|error| error.to_string())
}

#[polyproc::main]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (server, paths): (String, Vec<String>) = match arguments.next() {
        Some(server) => (server, arguments.collect()),
        None => {
            let files =
                (1..=8).map(|number| format!("/file-{number}")).chain(["/endless", "/missing"].map(String::from));
            (serve()?, files.collect())
        }
    };
    let pool = Pool::builder().workers(4).build()?;
    let jobs = paths.iter().map(|path| (server.clone(), path.clone()));
    let fetched = pool.with().timeout(Duration::from_secs(1)).retry(1).starmap(fetch, jobs)?;
    let mut total = 0;
    for (index, result) in fetched.unordered().progress_bar("fetching") {
        let path = &paths[index];
        match result {
            Ok(Ok(body)) => {
                println!("{path}: {} bytes", body.len());
                total += body.len();
            }
            Ok(Err(why)) => println!("{path}: {why}"),
            Err(TaskError::TimedOut { after, .. }) => println!("{path}: not within {after:?}"),
            Err(other) => println!("{path}: {other}"),
        }
    }
    println!("{total} bytes in all");
    Ok(())
}

/// A small web server; gives its address.
fn serve() -> io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            std::thread::spawn(move || respond(connection));
        }
    });
    Ok(address)
}

fn respond(mut connection: TcpStream) -> io::Result<()> {
    let (mut request, mut header) = (String::new(), String::new());
    let mut asked = BufReader::new(connection.try_clone()?);
    asked.read_line(&mut request)?;
    while asked.read_line(&mut header)? > 2 {
        header.clear();
    }
    let path = request.split(' ').nth(1).unwrap_or_default();
    let ok = "HTTP/1.0 200 OK\r\nContent-Type: application/octet-stream\r\n\r\n";
    if let Some(number) = path.strip_prefix("/file-").and_then(|number| number.parse::<usize>().ok()) {
        connection.write_all(ok.as_bytes())?;
        connection.write_all(&vec![b'x'; number * 10_000])
    } else if path == "/endless" {
        connection.write_all(ok.as_bytes())?;
        loop {
            connection.write_all(b"more and more\n")?;
            std::thread::sleep(Duration::from_millis(10));
        }
    } else {
        connection.write_all(b"HTTP/1.0 404 Not Found\r\n\r\n")
    }
}
