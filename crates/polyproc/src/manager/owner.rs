//! The process that owns an object: how it comes by it, and how it answers calls.

use crate::Result;
use crate::start::{self, Ran, kind};
use crate::task::{Arrival, Luggaged, Place, Sent, Task, only_value};
use crate::wire::{self, Arrived, Luggage};
use polyproc_engine::channel::{Envelope, Queue};
use polyproc_engine::{Deadline, Error as EngineError, Handle};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::any::{Any, type_name};
use std::cell::RefCell;
use std::marker::PhantomData;

/// A function that can be called on a managed `T` with arguments `A`, a tuple.
///
/// It is implemented for functions, and closures that capture nothing, whose first argument is `&mut T`, with up to five more;
/// there is nothing to implement by hand.
///
/// # Examples
/// ```
/// use polyproc::{Managed, Manager, Method, TaskError};
///
/// /// Any method of numbers that takes nothing can be given to this.
/// fn twice<F: Method<Vec<i32>, (), Output = ()>>(numbers: &Managed<Vec<i32>>, method: F) -> Result<(), TaskError> {
///     numbers.call(method, ())?;
///     numbers.call(method, ())
/// }
///
/// let numbers = Manager::start(vec![1, 2, 3])?;
/// twice(&numbers.handle(), |numbers: &mut Vec<i32>| numbers.push(0)).unwrap();
/// assert_eq!(numbers.call(|numbers: &mut Vec<i32>| numbers.len(), ()).unwrap(), 5);
/// # Ok::<(), polyproc::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be called on a managed `{T}` with the arguments `{A}`",
    label = "not a function of `&mut {T}` and these arguments",
    note = "it must be a function, or a closure that captures nothing; its further arguments are given as a tuple",
    note = "a closure has to name the types of its arguments: `|object: &mut {T}, ..|`"
)]
pub trait Method<T, A>: Copy + 'static {
    /// What it returns.
    type Output;

    #[doc(hidden)]
    fn call(self, object: &mut T, arguments: A) -> Self::Output;
}

/// A function that makes an object from arguments `A`, a tuple of up to five, in the process that is to own it.
///
/// # Examples
/// ```
/// use polyproc::Manager;
/// let words = Manager::start_with(|size: usize| Vec::<String>::with_capacity(size), (8,))?;
/// assert_eq!(words.call(|words: &mut Vec<String>| words.len(), ()).unwrap(), 0);
/// # Ok::<(), polyproc::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` makes nothing from the arguments `{A}`",
    label = "not a function of these arguments",
    note = "it must be a function, or a closure that captures nothing; its arguments are given as a tuple, `(a,)` for one"
)]
pub trait Make<A>: Copy + 'static {
    /// What it makes.
    type Object;

    #[doc(hidden)]
    fn make(self, arguments: A) -> Self::Object;
}

macro_rules! functions {
    ($($argument:ident)*) => {
        #[allow(non_snake_case, reason = "the arguments are named after their types")]
        impl<Function, Object, Output, $($argument),*> Method<Object, ($($argument,)*)> for Function
        where
            Function: Fn(&mut Object, $($argument),*) -> Output + Copy + 'static,
        {
            type Output = Output;

            fn call(self, object: &mut Object, ($($argument,)*): ($($argument,)*)) -> Output {
                self(object, $($argument),*)
            }
        }

        #[allow(non_snake_case, reason = "as above")]
        impl<Function, Object, $($argument),*> Make<($($argument,)*)> for Function
        where
            Function: Fn($($argument),*) -> Object + Copy + 'static,
        {
            type Object = Object;

            fn make(self, ($($argument,)*): ($($argument,)*)) -> Object {
                self($($argument),*)
            }
        }
    };
}

functions!();
functions!(A1);
functions!(A1 A2);
functions!(A1 A2 A3);
functions!(A1 A2 A3 A4);
functions!(A1 A2 A3 A4 A5);

/// A request: a call.
pub(super) const CALL: u8 = 1;
/// A request: to end.
pub(super) const STOP: u8 = 2;

thread_local! {
    /// The object, in the process that owns it.
    static OBJECT: RefCell<Option<Box<dyn Any>>> = const { RefCell::new(None) };
}

/// The task of a process that makes an object with `F` and owns it from then on.
pub(super) struct Own<F>(PhantomData<F>);

impl<F> Own<F> {
    pub(super) fn new() -> Own<F> {
        Own(PhantomData)
    }
}

/// The task of a call of `F` on the `T` of this process.
pub(super) struct On<T, F>(PhantomData<(fn(T), F)>);

macro_rules! plain_copies {
    ($($name:ident <$($parameter:ident),*>)*) => {
        $(
            impl<$($parameter),*> Clone for $name<$($parameter),*> {
                fn clone(&self) -> Self {
                    *self
                }
            }
            impl<$($parameter),*> Copy for $name<$($parameter),*> {}
        )*
    };
}

plain_copies!(Own<F> On<T, F>);

impl<F, A> Task<(A, Requests)> for Own<F>
where
    F: Make<A>,
    F::Object: 'static,
    A: DeserializeOwned,
{
    type Output = ();

    fn run(arguments: &[u8], arrival: Arrival) -> Result<(Vec<u8>, Luggaged)> {
        let (arguments, requests): (A, Requests) = wire::decode(arguments, arrival.0)?;
        let object = only_value::<F>().make(arguments);
        OBJECT.set(Some(Box::new(object)));
        serve(&requests.0)?;
        // What dropping the object does belongs to the task.
        drop(OBJECT.take());
        let (bytes, luggage) = wire::encode(&(), Vec::new())?;
        Ok((bytes, Luggaged(luggage)))
    }
}

impl<T, F, A> Task<A> for On<T, F>
where
    T: 'static,
    F: Method<T, A>,
    F::Output: Sent,
    A: DeserializeOwned,
{
    type Output = F::Output;

    fn run(arguments: &[u8], arrival: Arrival) -> Result<(Vec<u8>, Luggaged)> {
        let arguments: A = wire::decode(arguments, arrival.0)?;
        OBJECT.with_borrow_mut(|object| {
            let Some(object) = object.as_mut().and_then(|object| object.downcast_mut::<T>()) else {
                let detail = "the manager has an object of another type".to_owned();
                return Err(crate::Error::Decode { type_name: type_name::<T>(), detail });
            };
            let output = only_value::<F>().call(object, arguments);
            let (bytes, luggage) = wire::encode(&output, Vec::new())?;
            Ok((bytes, Luggaged(luggage)))
        })
    }
}

/// The queue of an owner's requests, as an argument.
pub(super) struct Requests(pub(super) Queue);

impl Serialize for Requests {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        wire::pack(self.0.hold(), serializer)
    }
}

impl<'de> Deserialize<'de> for Requests {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Requests, D::Error> {
        Ok(Requests(wire::unpack(deserializer, Queue::from_handle)?))
    }
}

/// Answers calls until it is told to stop.
fn serve(requests: &Queue) -> Result<()> {
    let mut envelope = Envelope::new();
    loop {
        wire::again(|| requests.get(&mut envelope, Deadline::Never))?;
        if envelope.kind == STOP {
            return Ok(());
        }
        let bytes = envelope.copy();
        if let Err(error) = answer(&bytes, &mut envelope) {
            log::debug!("polyproc: whoever made a call does not get its result: {error}");
        }
        envelope.clear();
    }
}

/// Makes the call. An error if its result cannot be given, as the caller is gone.
fn answer(bytes: &[u8], envelope: &mut Envelope) -> polyproc_engine::Result<()> {
    let damaged = |detail| EngineError::Damaged { what: "call of a managed object", detail };
    let (head, arguments) =
        postcard::take_from_bytes::<([u8; 16], Place)>(bytes).map_err(|_| damaged("its request does not parse"))?;
    let code = start::code_at(head.1).ok_or_else(|| damaged("its function is not there"))?;
    let arrived = Arrived::new(Vec::new(), std::mem::take(&mut envelope.buffers));
    let (kind, mut bytes, mut luggage) = match start::run(code, arguments, arrived) {
        Ran::Returned(bytes, luggage) => (kind::RESULT, bytes, luggage),
        Ran::Panicked(message, location) => {
            let told = wire::encode(&(message, location), Vec::new());
            (kind::PANIC, told.map(|(bytes, _)| bytes).unwrap_or_default(), Luggage::default())
        }
        Ran::Refused(why) => (kind::REFUSED, why.into_bytes(), Luggage::default()),
    };
    let replies = Handle::from_bytes(&head.0).and_then(Queue::from_handle)?;
    wire::leave_descriptors(&mut bytes, &mut luggage)?;
    let handles = luggage.handles();
    let mut parcel = wire::parcel(kind, &bytes, &mut luggage, &handles)?;
    wire::again(|| replies.put(&mut parcel, Deadline::Never))
}
