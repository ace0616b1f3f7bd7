//! Questions and answers over a pipe, and what each side sees when the other goes.
//!
//! ```sh
//! cargo run --release -p polyproc --example pipe
//! ```

#![expect(clippy::print_stdout, reason = "an example")]

use polyproc::pipe::{self, End};
use polyproc::{Error, Process};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
enum Question {
    Length(String),
    Sum(Vec<i64>),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Answer {
    Length(usize),
    Sum(i64),
}

/// Answers until the other end is closed, by whatever; gives how many there were.
fn answer(questions: End<Answer, Question>) -> u32 {
    let mut count = 0;
    while let Ok(question) = questions.receive() {
        let answer = match question {
            Question::Length(text) => Answer::Length(text.chars().count()),
            Question::Sum(numbers) => Answer::Sum(numbers.iter().sum()),
        };
        if questions.send(&answer).is_err() {
            break;
        }
        count += 1;
    }
    count
}

#[polyproc::main]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Each end is typed: what one sends, the other receives.
    let (ours, theirs) = pipe::duplex::<Question, Answer>()?;
    let child = Process::spawn(answer, (theirs,))?;
    for question in [Question::Length("grüß dich".to_owned()), Question::Sum(vec![1, 2, 3, 4])] {
        ours.send(&question)?;
        println!("{question:?}: {:?}", ours.receive()?);
    }
    drop(ours);
    println!("{} questions were answered", child.join()?);

    // A process that is killed closes its end, too: nobody waits for it.
    let (ours, theirs) = pipe::duplex::<Question, Answer>()?;
    let child = Process::spawn(answer, (theirs,))?;
    child.kill()?;
    match ours.receive() {
        Err(Error::EndOfFile) => {
            if let Err(death) = child.join() {
                println!("the other end is gone: {death}");
            }
        }
        other => return Err(format!("{other:?} came from the dead").into()),
    }
    Ok(())
}
