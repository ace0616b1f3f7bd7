//! The keeper: descriptors on their way in a message that lies in shared memory.
//!
//! A pipe sends descriptors through its socket. A queue has none that all its processes share, and a message in it may wait for
//! a reader that does not run yet. So the sender keeps the descriptors, and a thread of it hands them out, through a local
//! socket, to whoever has the message:
//!
//! ```text
//!   sender                                              receiver
//!   keep(descriptors) ─▶ token ═══ in the message ═══▶ fetch(token)
//!   keeper thread  ◀────────── "what is behind it?" ────────┘
//!         └─────────────────── copies ─────────────────────▶
//! ```
//!
//! A token is the name of an object of its own, which the message names: it lives as long as the message, or whoever reads it,
//! does. When it is gone the keeper closes what it kept.
//!
//! DEATH of the sender: the descriptors are gone with it, and fetching them is an error that says so. DEATH of a receiver: the
//! message is gone, and with it the token. Only processes of the same user are answered.

use crate::shm::{self, Handle, Hold, Kind, Participant};
use crate::sync::Event;
use crate::sys::clock::Deadline;
use crate::sys::poll::{self, Polled};
use crate::sys::socket::{self, Heard};
use crate::sys::{event, fork, local, thread};
use crate::{Error, Result};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How soon the keeper looks whether a token is gone, after something has happened, and how often when nothing does.
const FIRST_LOOK: u64 = 1_000_000;
const LAST_LOOK: u64 = 100_000_000;
/// How long somebody who has connected may take to say what for.
const PATIENCE: Duration = Duration::from_millis(100);

/// What stands for descriptors in a message.
#[derive(Debug)]
pub struct Token {
    object: Event,
    keeper: Participant,
}

impl Token {
    /// The size of a token in a message, in bytes.
    pub const SIZE: usize = 20;

    /// The token as bytes.
    pub fn to_bytes(&self) -> [u8; Token::SIZE] {
        let mut bytes = [0; Token::SIZE];
        bytes[..16].copy_from_slice(&self.object.hold().handle().to_bytes());
        bytes[16..].copy_from_slice(&self.keeper.bits().to_le_bytes());
        bytes
    }

    /// What the message has to name: the descriptors are kept as long as that lives.
    pub fn hold(&self) -> &Hold {
        self.object.hold()
    }
}

#[derive(Default)]
struct Keeper {
    kept: Vec<(Handle, Vec<OwnedFd>)>,
    /// Ends the thread's sleep; and the fork count of the process whose thread it is.
    bell: Option<(Arc<OwnedFd>, i32)>,
}

static KEEPER: Mutex<Keeper> = Mutex::new(Keeper { kept: Vec::new(), bell: None });
/// Something is no longer kept.
static LESS: Condvar = Condvar::new();

fn keeper() -> MutexGuard<'static, Keeper> {
    KEEPER.lock().unwrap_or_else(PoisonError::into_inner)
}

fn address(keeper: Participant) -> Result<String> {
    Ok(format!("polyproc/{:016x}/{:08x}", shm::id()?, keeper.bits()))
}

/// Keeps descriptors for whoever reads the message that they belong to. The caller holds the token's object until the message
/// that names it is sent.
///
/// # Errors
/// [`Error::Os`] if there is no socket or no thread to be had.
pub fn keep(descriptors: Vec<OwnedFd>) -> Result<Token> {
    let object = Event::new()?;
    let me = shm::me();
    let mut keeper = keeper();
    let bell = match &keeper.bell {
        Some((bell, born_in)) if *born_in == fork::count() => bell.clone(),
        _ => {
            // What a parent of this process keeps is not ours to hand out.
            keeper.kept.clear();
            let listener = local::listen(&address(me)?)?;
            let bell = Arc::new(event::create()?);
            let for_thread = bell.clone();
            thread::spawn_without_signals("polyproc-keeper", move || serve(&listener, &for_thread))?;
            keeper.bell = Some((bell.clone(), fork::count()));
            bell
        }
    };
    keeper.kept.push((object.hold().handle(), descriptors));
    event::raise(bell.as_fd());
    Ok(Token { object, keeper: me })
}

/// The descriptors behind a token, from whoever keeps them.
///
/// # Errors
/// [`Error::Stale`] if the keeper has ended, or the message is not the caller's any more; [`Error::Foreign`] for a token of
/// another session.
pub fn fetch(token: &[u8; Token::SIZE]) -> Result<Vec<OwnedFd>> {
    let gone = Error::Stale { what: "descriptor" };
    let (mut name, mut keeper) = ([0; 16], [0; 4]);
    name.copy_from_slice(&token[..16]);
    keeper.copy_from_slice(&token[16..]);
    let handle = Handle::from_bytes(&name)?;
    let address = address(Participant::from_bits(u32::from_le_bytes(keeper)))?;
    let Some(mut stream) = local::connect(&address)?.filter(|stream| local::is_ours(stream)) else { return Err(gone) };
    let mut question = [0; 8];
    question[..4].copy_from_slice(&handle.cell.to_le_bytes());
    question[4..].copy_from_slice(&handle.generation.to_le_bytes());
    if stream.write_all(&question).is_err() {
        return Err(gone);
    }
    let mut descriptors = Vec::new();
    loop {
        match poll::wait(&mut [Polled::new(stream.as_raw_fd())], Deadline::Never) {
            Ok(_) | Err(Error::Interrupted) => {}
            Err(error) => return Err(error),
        }
        let heard = socket::hush(&stream, 256)?;
        descriptors.extend(heard.descriptors);
        if heard.heard == Heard::End {
            return if descriptors.is_empty() { Err(gone) } else { Ok(descriptors) };
        }
    }
}

/// Waits until all that this process keeps has been fetched, or is wanted no more: for a process that is about to end. True if
/// that came before the timeout.
pub fn linger(timeout: Duration) -> bool {
    let keeper = keeper();
    match &keeper.bell {
        Some((bell, born_in)) if *born_in == fork::count() => event::raise(bell.as_fd()),
        _ => return true,
    }
    let waited = LESS.wait_timeout_while(keeper, timeout, |keeper| !keeper.kept.is_empty());
    waited.unwrap_or_else(PoisonError::into_inner).0.kept.is_empty()
}

fn serve(listener: &UnixListener, bell: &OwnedFd) {
    let mut pause = FIRST_LOOK;
    loop {
        let nothing = close_what_is_gone();
        let deadline = if nothing { Deadline::Never } else { Deadline::Never.within(pause) };
        let mut polled = [Polled::new(listener.as_raw_fd()), Polled::new(bell.as_raw_fd())];
        if poll::wait(&mut polled, deadline).is_ok_and(|ready| ready == 0) {
            pause = (pause * 2).min(LAST_LOOK);
            continue;
        }
        pause = FIRST_LOOK;
        if polled[1].ready {
            event::lower(bell.as_fd());
        }
        if polled[0].ready
            && let Ok((stream, _)) = listener.accept()
            && local::is_ours(&stream)
            && let Err(error) = answer(stream)
        {
            log::debug!("polyproc: whoever asked for a descriptor did not get it: {error}");
        }
    }
}

fn answer(mut stream: UnixStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut question = [0; 8];
    stream.read_exact(&mut question)?;
    let number = |at: usize| u32::from_le_bytes([question[at], question[at + 1], question[at + 2], question[at + 3]]);
    let handle = Handle { cell: number(0), generation: number(4) };
    let copies: Vec<OwnedFd> = match keeper().kept.iter().find(|(name, _)| *name == handle) {
        Some((_, descriptors)) => descriptors.iter().map(OwnedFd::try_clone).collect::<std::io::Result<_>>()?,
        None => Vec::new(),
    };
    for copy in copies {
        socket::send_descriptor(&stream, copy.as_fd()).map_err(std::io::Error::other)?;
    }
    Ok(())
}

/// True if nothing is left.
fn close_what_is_gone() -> bool {
    let mut keeper = keeper();
    keeper.kept.retain(|(handle, _)| {
        shm::cell(handle.cell).kind() == Kind::Event && shm::generation(handle.cell) == handle.generation
    });
    LESS.notify_all();
    keeper.kept.is_empty()
}
