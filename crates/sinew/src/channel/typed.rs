//! Messages of a type: values and slices of them, where they lie, without a codec.
#![allow(unsafe_code, reason = "bytes of the channel are used as values of plain types")]

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::attach::{Attach, Events, Unattached, private};
use super::bell::doorbell::Event;
use super::layout::Shape;
use super::member::{Member, Role, TYPES};
use super::queue::{self, Job, Loan as QueueLoan};
use super::wait_set::{self, State};
use super::{Loan, Message, Options, Receiver, Sender};
use crate::error::{Error, ErrorKind, RecvError, Result, SendError};
use crate::mapping::Mapping;
use crate::mechanism::Mechanism;
use crate::shared::Plain;
use crate::wait::{Borrows, Loans, LoansValues, ReceivesValues, Sends, SendsValues, Wait};

/// A type of messages, as the header of a channel has it: a hash over what its fields are and where.
#[derive(Clone, Copy, Debug)]
pub struct Type {
    hash: u64,
    name: fn() -> &'static str,
}

impl Type {
    /// The hash.
    #[must_use]
    pub const fn hash(self) -> u64 {
        self.hash
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:#018x})", (self.name)(), self.hash)
    }
}

/// What a typed channel can carry, for one of its ends: a [`Plain`] type, a slice of one, or several
/// [`versions!`](crate::versions) of one.
pub trait Typed {
    /// The types; a channel that is made by this end is of the first. Eight at most.
    const TYPES: &'static [Type];
}

/// A message that lies in the channel as it is: a [`Plain`] type or a slice of one.
///
/// Checked by the compiler: an alignment of at most 8, no padding, and nothing that changes behind a reference (an atomic). Where
/// there is padding, add a field of bytes.
///
/// ```compile_fail
/// use sinew::channel::Options;
///
/// sinew::plain! { struct Padded { wide: u64, narrow: u32 } }
/// let pair = Options::stream().typed::<Padded>().pair();
/// ```
pub trait Payload: Typed + sealed::Payload {}

mod sealed {
    pub trait Payload {
        #[doc(hidden)]
        fn bytes(&self) -> &[u8];
        #[doc(hidden)]
        fn of(bytes: &[u8]) -> Option<&Self>;
        #[doc(hidden)]
        fn of_mut(bytes: &mut [u8]) -> Option<&mut Self>;
    }
}

/// What a receiver gives by value: a [`Plain`] type, or an enum of [`versions!`](crate::versions) of one.
pub trait Versions: Typed + Sized {
    /// The value of a message of the type with this hash. None where the bytes are none.
    fn read(hash: u64, bytes: &[u8]) -> Option<Self>;
}

/// What has to hold of a type, so that its bytes can be sent and bytes be taken for it.
const fn check<T: Plain>() {
    assert!(align_of::<T>() <= 8, "messages lie at multiples of eight");
    assert!(size_of::<T>() > 0, "a message has a size");
    assert!(
        T::LAYOUT.is_solid(),
        "a message has no padding, so add a field of bytes, and nothing that changes behind a reference"
    );
}

impl<T: Plain> Typed for T {
    const TYPES: &'static [Type] = &[Type {
        hash: {
            check::<T>();
            T::LAYOUT.hash()
        },
        name: std::any::type_name::<T>,
    }];
}

impl<T: Plain> Typed for [T] {
    const TYPES: &'static [Type] = &[Type {
        hash: {
            check::<T>();
            T::LAYOUT.hash_of_slice()
        },
        name: std::any::type_name::<[T]>,
    }];
}

impl<T: Plain> Payload for T {}
impl<T: Plain> Payload for [T] {}

impl<T: Plain> sealed::Payload for T {
    #[inline]
    fn bytes(&self) -> &[u8] {
        <[T] as sealed::Payload>::bytes(std::slice::from_ref(self))
    }

    #[inline]
    fn of(bytes: &[u8]) -> Option<&T> {
        match <[T] as sealed::Payload>::of(bytes) {
            Some([one]) => Some(one),
            _ => None,
        }
    }

    #[inline]
    fn of_mut(bytes: &mut [u8]) -> Option<&mut T> {
        match <[T] as sealed::Payload>::of_mut(bytes) {
            Some([one]) => Some(one),
            _ => None,
        }
    }
}

impl<T: Plain> sealed::Payload for [T] {
    #[inline]
    fn bytes(&self) -> &[u8] {
        const { check::<T>() };
        // SAFETY: a slice of values without padding, and without cells, so all of it is initialised bytes that nobody
        // changes as long as it is borrowed.
        unsafe { std::slice::from_raw_parts(self.as_ptr().cast::<u8>(), size_of_val(self)) }
    }

    #[inline]
    fn of(bytes: &[u8]) -> Option<&[T]> {
        let count = count::<T>(bytes)?;
        // SAFETY: aligned, and as many bytes as there are, all in `count`; every combination of them is values of a plain
        // type, which has no cells: nobody changes them behind the reference.
        Some(unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast::<T>(), count) })
    }

    #[inline]
    fn of_mut(bytes: &mut [u8]) -> Option<&mut [T]> {
        let count = count::<T>(bytes)?;
        // SAFETY: as above; borrowed alone; and as it has no padding, what is written are initialised bytes.
        Some(unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast::<T>(), count) })
    }
}

/// How many values these bytes are, if they are some.
#[inline]
fn count<T: Plain>(bytes: &[u8]) -> Option<usize> {
    const { check::<T>() };
    let fits =
        bytes.as_ptr().cast::<T>().is_aligned() && bytes.len().is_multiple_of(size_of::<T>());
    fits.then_some(bytes.len() / size_of::<T>())
}

impl<T: Plain> Versions for T {
    #[inline]
    fn read(_: u64, bytes: &[u8]) -> Option<T> {
        let value: *const T = <T as sealed::Payload>::of(bytes)?;
        // SAFETY: a reference to a value, of which there may be two: it is plain.
        Some(unsafe { value.read() })
    }
}

/// Declares an enum of the versions of a message that a receiver accepts, so that the programs at the two ends of a channel can be
/// upgraded one by one. A channel that it makes itself is of the first.
///
/// ```
/// use sinew::channel::Options;
/// use sinew::wait::{ReceivesValues, SendsValues};
///
/// sinew::plain! {
///     struct Reading { volts: f64 }
/// }
/// sinew::plain! {
///     struct Stamped { volts: f64, time: u64 }
/// }
/// sinew::versions! {
///     enum Any { Old(Reading), New(Stamped) }
/// }
///
/// let name = format!("example-versions-{}", std::process::id());
/// // A sender that is not upgraded yet.
/// let sender = Options::stream().typed::<Reading>().sender().create(&name)?;
/// let receiver = Options::stream().typed::<Any>().receiver().open(&name)?;
/// sender.send(&Reading { volts: 5.0 }).unwrap();
/// match receiver.recv().unwrap() {
///     Any::Old(reading) => assert_eq!(reading.volts, 5.0),
///     Any::New(stamped) => println!("{} at {}", stamped.volts, stamped.time),
/// }
/// # Ok::<(), sinew::Error>(())
/// ```
#[macro_export]
macro_rules! versions {
    (
        $(#[$outer:meta])*
        $visibility:vis enum $name:ident {
            $($(#[$inner:meta])* $variant:ident($type:ty)),+ $(,)?
        }
    ) => {
        $(#[$outer])*
        $visibility enum $name {
            $($(#[$inner])* $variant($type)),+
        }

        impl $crate::channel::Typed for $name {
            const TYPES: &'static [$crate::channel::Type] = {
                const TYPES: &[$crate::channel::Type] =
                    &[$(<$type as $crate::channel::Typed>::TYPES[0]),+];
                assert!(TYPES.len() <= 8, "an end accepts eight types at most");
                TYPES
            };
        }

        impl $crate::channel::Versions for $name {
            fn read(hash: u64, bytes: &[u8]) -> ::std::option::Option<Self> {
                $(
                    if hash == <$type as $crate::channel::Typed>::TYPES[0].hash() {
                        return <$type as $crate::channel::Versions>::read(hash, bytes)
                            .map(Self::$variant);
                    }
                )+
                ::std::option::Option::None
            }
        }
    };
}

/// The hashes of the types that an end takes, as it says them when it joins: zeros for bytes.
pub(super) fn accepted(types: &[Type]) -> [u64; TYPES] {
    std::array::from_fn(|index| types.get(index).map_or(0, |one| one.hash))
}

/// Whether a channel of this type is for who says that it takes these.
pub(super) fn is_accepted(accepted: &[u64; TYPES], hash: u64) -> bool {
    if hash == 0 { accepted[0] == 0 } else { accepted.contains(&hash) }
}

const CARRIES: &str = "it carries ";
const TAKES: &str = "build both ends with one declaration, or have the receiver accept both (`sinew::versions!`): this end takes ";

/// Why who says that it takes these is refused.
pub(super) fn mismatch(accepted: &[u64; TYPES], hash: u64) -> String {
    let show = |hash: u64| match hash {
        0 => "bytes".to_owned(),
        hash => format!("type {hash:#018x}"),
    };
    let more = accepted[1..].iter().filter(|hash| **hash != 0);
    let takes = more.fold(show(accepted[0]), |all, hash| format!("{all} or {}", show(*hash)));
    format!("{CARRIES}{}, and who attaches takes {takes}", show(hash))
}

/// The same refusal, with the names that only who is refused knows.
pub(super) fn named(error: Error, types: &[Type]) -> Error {
    if types.is_empty() || !error.to_string().contains(CARRIES) {
        return error;
    }
    let names = types.iter().map(Type::to_string).collect::<Vec<_>>();
    error.fix(format!("{TAKES}{}", names.join(" or ")))
}

/// That a channel carries what an end takes: bytes, where it states no types.
pub(super) fn check_type(types: &[Type], shape: &Shape) -> Result<()> {
    let (accepted, hash) = (accepted(types), shape.type_hash);
    if is_accepted(&accepted, hash) {
        return Ok(());
    }
    let error = Error::new(ErrorKind::Mismatch, "attach").on(Mechanism::Channel);
    Err(named(error.because(mismatch(&accepted, hash)), types))
}

/// How a channel of typed messages is made. Made by [`Options::typed`].
///
/// ```
/// use sinew::channel::Options;
/// use sinew::wait::{Borrows, LoansValues, ReceivesValues, SendsValues};
///
/// sinew::plain! {
///     #[derive(Debug, PartialEq)]
///     struct Pose { x: f64, y: f64, time: u64 }
/// }
///
/// let (mut sender, receiver) = Options::stream().typed::<Pose>().pair()?;
/// sender.send(&Pose { x: 1.0, y: 2.0, time: 3 }).unwrap();
/// assert_eq!(receiver.recv().unwrap(), Pose { x: 1.0, y: 2.0, time: 3 });
///
/// // In place.
/// let mut loan = sender.loan().unwrap();
/// *loan = Pose { x: 4.0, y: 5.0, time: 6 };
/// loan.send();
/// assert_eq!(receiver.borrow().unwrap().time, 6);
///
/// // As many in a message as there are.
/// let (sender, receiver) = Options::stream().typed::<[f32]>().pair()?;
/// sender.send(&[0.5, 0.25]).unwrap();
/// assert_eq!(*receiver.borrow().unwrap(), [0.5, 0.25]);
/// # Ok::<(), sinew::Error>(())
/// ```
///
/// # What is checked
/// The header of the channel has the [hash](Type) of the type: an end that takes another, or bytes, is refused with
/// [`Mismatch`](ErrorKind::Mismatch). A message of a length that is none of the type's, which only a process sends that does not keep to
/// it, is consumed and told as [`Corrupt`](RecvError::Corrupt).
#[must_use = "it makes nothing until `pair` or an end of it does"]
pub struct TypedOptions<V: ?Sized, S = Sender, R = Receiver> {
    options: Options,
    _type: PhantomData<fn(&V)>,
    _ends: PhantomData<fn(S, R)>,
}

impl<V: Typed + ?Sized, S, R> TypedOptions<V, S, R> {
    pub(super) const fn new(mut options: Options) -> Self {
        options.type_hash = V::TYPES[0].hash;
        Self { options, _type: PhantomData, _ends: PhantomData }
    }
}

impl<V: Typed + ?Sized, S, R: private::End> TypedOptions<V, S, R> {
    /// The receiving end, to be attached under a name.
    pub const fn receiver(self) -> Attach<TypedReceiver<V, R>> {
        Attach::new(self.options)
    }
}

impl<V: Payload + ?Sized, S: private::End, R: private::End> TypedOptions<V, S, R> {
    /// The sending end, to be attached under a name.
    pub const fn sender(self) -> Attach<TypedSender<V, S>> {
        Attach::new(self.options)
    }

    /// Makes a channel without a name, as [`Options::ends`].
    ///
    /// # Errors
    /// As those of [`Options::ends`].
    #[expect(clippy::type_complexity, reason = "the two ends")]
    pub fn ends(self) -> Result<(Unattached<TypedSender<V, S>>, Unattached<TypedReceiver<V, R>>)> {
        Unattached::pair(self.options)
    }
}

impl<V: Payload + ?Sized> TypedOptions<V> {
    /// Makes a channel whose two ends are in this process, as [`Options::pair`].
    ///
    /// # Errors
    /// As those of [`Options::pair`].
    pub fn pair(self) -> Result<(TypedSender<V>, TypedReceiver<V>)> {
        let (sender, receiver) = self.options.pair()?;
        Ok((TypedSender::of(sender), TypedReceiver::of(receiver, V::TYPES[0].hash)))
    }

    /// How much memory the channel takes, in bytes.
    ///
    /// # Errors
    /// As those of [`Options::bytes`].
    pub fn bytes(self) -> Result<u64> {
        self.options.bytes()
    }

    /// Makes a channel in memory that was shared some other way, as [`Options::create_in`].
    ///
    /// # Errors
    /// As those of [`Options::create_in`].
    pub fn create_in(self, map: &Arc<Mapping>) -> Result<()> {
        self.options.create_in(map)
    }
}

impl<V: ?Sized, S, R> Clone for TypedOptions<V, S, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V: ?Sized, S, R> Copy for TypedOptions<V, S, R> {}

impl<V: ?Sized, S, R> fmt::Debug for TypedOptions<V, S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TypedOptions").field(&self.options).finish()
    }
}

/// The sending end of a channel of typed messages. See [`TypedOptions`].
pub struct TypedSender<P: ?Sized, S = Sender> {
    end: S,
    _type: PhantomData<fn(&P)>,
}

impl<P: ?Sized, S> TypedSender<P, S> {
    const fn of(end: S) -> Self {
        Self { end, _type: PhantomData }
    }

    /// The end under it, for what has nothing to do with types: its doorbell, its counts.
    pub const fn end(&self) -> &S {
        &self.end
    }
}

/// The receiving end of a channel of typed messages. See [`TypedOptions`].
pub struct TypedReceiver<V: ?Sized, R = Receiver> {
    end: R,
    /// Which of the types the channel is of.
    hash: u64,
    _type: PhantomData<fn(&V)>,
}

impl<V: ?Sized, R> TypedReceiver<V, R> {
    const fn of(end: R, hash: u64) -> Self {
        Self { end, hash, _type: PhantomData }
    }

    /// The end under it, for what has nothing to do with types: its doorbell, its counts.
    pub const fn end(&self) -> &R {
        &self.end
    }
}

impl<P: Payload + ?Sized> TypedSender<P> {
    /// As [`Sender::open_in`].
    ///
    /// # Errors
    /// As those of [`Sender::open_in`]; [`Mismatch`](ErrorKind::Mismatch) if the channel is of another type.
    ///
    /// # Safety
    /// As for [`Sender::open_in`].
    pub unsafe fn open_in(map: &Arc<Mapping>, lane: u32) -> Result<Self> {
        // SAFETY: the caller's.
        unsafe { Sender::open_of(map, lane, P::TYPES) }.map(Self::of)
    }
}

impl<V: Typed + ?Sized> TypedReceiver<V> {
    /// As [`Receiver::open_in`].
    ///
    /// # Errors
    /// As those of [`Receiver::open_in`]; [`Mismatch`](ErrorKind::Mismatch) if the channel is of another type.
    ///
    /// # Safety
    /// As for [`Receiver::open_in`].
    pub unsafe fn open_in(map: &Arc<Mapping>) -> Result<Self> {
        // SAFETY: the caller's.
        let (end, hash) = unsafe { Receiver::open_of(map, V::TYPES) }?;
        Ok(Self::of(end, hash))
    }
}

impl<P: Payload + ?Sized, S: private::End> super::attach::End for TypedSender<P, S> {}
impl<V: Typed + ?Sized, R: private::End> super::attach::End for TypedReceiver<V, R> {}

impl<P: Payload + ?Sized, S: private::End> private::End for TypedSender<P, S> {
    #[allow(private_interfaces, reason = "nobody outside can name it")]
    const ROLE: Role = S::ROLE;
    const OF_QUEUE: bool = S::OF_QUEUE;
    const TYPES: &'static [Type] = P::TYPES;

    #[allow(private_interfaces, reason = "nobody outside can name them")]
    fn attach(
        map: &Arc<Mapping>,
        shape: &Shape,
        events: &Events,
        member: Member,
        named: bool,
    ) -> Result<Self> {
        S::attach(map, shape, events, member, named).map(Self::of)
    }

    #[allow(private_interfaces, reason = "nobody outside can name it")]
    fn member(&self) -> Option<&Member> {
        self.end.member()
    }
}

impl<V: Typed + ?Sized, R: private::End> private::End for TypedReceiver<V, R> {
    #[allow(private_interfaces, reason = "nobody outside can name it")]
    const ROLE: Role = R::ROLE;
    const OF_QUEUE: bool = R::OF_QUEUE;
    const TYPES: &'static [Type] = V::TYPES;

    #[allow(private_interfaces, reason = "nobody outside can name them")]
    fn attach(
        map: &Arc<Mapping>,
        shape: &Shape,
        events: &Events,
        member: Member,
        named: bool,
    ) -> Result<Self> {
        let end = R::attach(map, shape, events, member, named)?;
        Ok(Self::of(end, shape.type_hash))
    }

    #[allow(private_interfaces, reason = "nobody outside can name it")]
    fn member(&self) -> Option<&Member> {
        self.end.member()
    }
}

impl<P: Payload + ?Sized, S: Sends> SendsValues for TypedSender<P, S> {
    type Value = P;

    #[inline]
    fn send_wait(&self, value: &P, wait: Wait<'_>) -> Result<(), SendError> {
        self.end.send_wait(value.bytes(), wait)
    }
}

/// Room for a typed message, in the memory that the receiver reads. Its contents are those of some former message. Dropped,
/// nothing was sent.
#[derive(Debug)]
#[must_use = "dropped, nothing is sent"]
pub struct TypedLoan<P: ?Sized, L> {
    loan: L,
    _type: PhantomData<fn(&P)>,
}

impl<P: Payload + ?Sized, L: DerefMut<Target = [u8]>> TypedLoan<P, L> {
    #[inline]
    fn of(mut loan: L) -> Result<Self, SendError> {
        match P::of_mut(&mut loan) {
            Some(_) => Ok(Self { loan, _type: PhantomData }),
            None => Err(SendError::Corrupt),
        }
    }
}

impl<P: Payload + ?Sized, L: Deref<Target = [u8]>> Deref for TypedLoan<P, L> {
    type Target = P;

    #[inline]
    fn deref(&self) -> &P {
        P::of(&self.loan).expect("checked when it was lent")
    }
}

impl<P: Payload + ?Sized, L: DerefMut<Target = [u8]>> DerefMut for TypedLoan<P, L> {
    #[inline]
    fn deref_mut(&mut self) -> &mut P {
        P::of_mut(&mut self.loan).expect("checked when it was lent")
    }
}

/// A typed message where its sender wrote it. Dropped, it is released.
#[derive(Debug)]
#[must_use = "dropped, it is released"]
pub struct TypedMessage<P: ?Sized, M> {
    message: M,
    _type: PhantomData<fn(&P)>,
}

impl<P: ?Sized, M> TypedMessage<P, M> {
    /// The message under it: its number, how often it was given.
    pub const fn message(&self) -> &M {
        &self.message
    }
}

impl<P: Payload + ?Sized, M: Deref<Target = [u8]>> TypedMessage<P, M> {
    #[inline]
    fn of(message: M) -> Result<Self, RecvError> {
        match P::of(&message) {
            Some(_) => Ok(Self { message, _type: PhantomData }),
            None => Err(RecvError::Corrupt),
        }
    }
}

impl<P: Payload + ?Sized, M: Deref<Target = [u8]>> Deref for TypedMessage<P, M> {
    type Target = P;

    #[inline]
    fn deref(&self) -> &P {
        P::of(&self.message).expect("checked when it was received")
    }
}

macro_rules! ends {
    ($(($sender:ty, $loan:ident, $receiver:ty, $message:ident)),*) => { $(
        impl<P: Payload + ?Sized> TypedLoan<P, $loan<'_>> {
            /// Sends the message that was written here.
            #[inline]
            pub fn send(self) {
                self.loan.send();
            }
        }

        impl<T: Plain> LoansValues for TypedSender<T, $sender> {
            type Loan<'a> = TypedLoan<T, $loan<'a>>;

            #[inline]
            fn loan_wait(&mut self, wait: Wait<'_>) -> Result<Self::Loan<'_>, SendError> {
                TypedLoan::of(self.end.loan_wait(size_of::<T>(), wait)?)
            }
        }

        impl<T: Plain> Loans for TypedSender<[T], $sender> {
            type Loan<'a> = TypedLoan<[T], $loan<'a>>;

            /// Lends room for so many values.
            #[inline]
            fn loan_wait(&mut self, len: usize, wait: Wait<'_>) -> Result<Self::Loan<'_>, SendError> {
                // More than there can be is too big anyway.
                let bytes = len.saturating_mul(size_of::<T>());
                TypedLoan::of(self.end.loan_wait(bytes, wait)?)
            }
        }

        impl<P: Payload + ?Sized> Borrows for TypedReceiver<P, $receiver> {
            type Message<'a>
                = TypedMessage<P, $message<'a>>
            where
                P: 'a;

            #[inline]
            fn borrow_wait(&self, wait: Wait<'_>) -> Result<Self::Message<'_>, RecvError> {
                TypedMessage::of(self.end.borrow_wait(wait)?)
            }
        }

        impl<V: Versions> ReceivesValues for TypedReceiver<V, $receiver> {
            type Value = V;

            #[inline]
            fn recv_wait(&self, wait: Wait<'_>) -> Result<V, RecvError> {
                let message = self.end.borrow_wait(wait)?;
                V::read(self.hash, &message).ok_or(RecvError::Corrupt)
            }
        }
    )* };
}

ends!((Sender, Loan, Receiver, Message), (queue::Sender, QueueLoan, queue::Worker, Job));

impl<P: ?Sized, S: wait_set::private::Watch> wait_set::private::Watch for TypedSender<P, S> {
    #[allow(private_interfaces, reason = "nobody outside can name it")]
    fn bell(&self) -> Result<Option<Event>> {
        self.end.bell()
    }

    fn rung(&self) {
        self.end.rung();
    }

    #[allow(private_interfaces, reason = "nobody outside can name it")]
    fn state(&self) -> State {
        self.end.state()
    }

    fn told(&self) {
        self.end.told();
    }
}

impl<V: ?Sized, R: wait_set::private::Watch> wait_set::private::Watch for TypedReceiver<V, R> {
    #[allow(private_interfaces, reason = "nobody outside can name it")]
    fn bell(&self) -> Result<Option<Event>> {
        self.end.bell()
    }

    fn rung(&self) {
        self.end.rung();
    }

    #[allow(private_interfaces, reason = "nobody outside can name it")]
    fn state(&self) -> State {
        self.end.state()
    }

    fn told(&self) {
        self.end.told();
    }
}

impl<P: ?Sized, S: fmt::Debug> fmt::Debug for TypedSender<P, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TypedSender").field(&self.end).finish()
    }
}

impl<V: ?Sized, R: fmt::Debug> fmt::Debug for TypedReceiver<V, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TypedReceiver").field(&self.end).finish()
    }
}
