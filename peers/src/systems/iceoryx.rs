//! iceoryx2: publish-subscribe, typed for small messages, slices for large ones; with events where a side waits.

#![allow(unsafe_code, reason = "a loaned sample is written in place and then said to be whole")]

use std::hint::spin_loop;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use iceoryx2::node::Node;
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::port::update_connections::UpdateConnections;
use iceoryx2::prelude::{
    AllocationStrategy, BackpressureStrategy, LogLevel, NodeBuilder, ipc, set_log_level,
};

use crate::Result;
use crate::ends::Ends;
use crate::job::{Job, Side, Work};
use crate::large::{self, Large};
use crate::link::Link;

type Service = ipc::Service;
/// The queue of a subscriber: more made it slower in our trials.
const BUFFER: usize = 256;

fn node() -> Result<Node<Service>> {
    set_log_level(LogLevel::Error);
    Ok(NodeBuilder::new().create::<Service>()?)
}

type Typed<const N: usize> = (Publisher<Service, [u8; N], ()>, Subscriber<Service, [u8; N], ()>);

/// Both ports of a service; a side uses one of them.
fn service<const N: usize>(
    node: &Node<Service>,
    name: &str,
    publishers: usize,
) -> Result<iceoryx2::service::port_factory::publish_subscribe::PortFactory<Service, [u8; N], ()>> {
    Ok(node
        .service_builder(&name.try_into()?)
        .publish_subscribe::<[u8; N]>()
        .enable_safe_overflow(false)
        .subscriber_max_buffer_size(BUFFER)
        .subscriber_max_borrowed_samples(2)
        .max_publishers(publishers)
        .max_subscribers(2)
        .max_nodes(publishers + 2)
        .open_or_create()?)
}

fn ports<const N: usize>(node: &Node<Service>, output: &str, input: &str) -> Result<Typed<N>> {
    let publisher = service::<N>(node, output, 2)?
        .publisher_builder()
        .max_loaned_samples(2)
        .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
        .create()?;
    let subscriber = service::<N>(node, input, 2)?.subscriber_builder().create()?;
    Ok((publisher, subscriber))
}

fn events(node: &Node<Service>, output: &str, input: &str) -> Result<Events> {
    let open = |name: &str| -> Result<_> {
        let name = format!("{name}-event");
        Ok(node.service_builder(&name.as_str().try_into()?).event().open_or_create()?)
    };
    let notifier = open(output)?.notifier_builder().create()?;
    let listener = open(input)?.listener_builder().create()?;
    Ok(Events { notifier, listener })
}

struct Events {
    notifier: Notifier<Service>,
    listener: Listener<Service>,
}

/// Small messages, typed.
pub(crate) struct Samples<const N: usize> {
    output: Publisher<Service, [u8; N], ()>,
    input: Subscriber<Service, [u8; N], ()>,
    events: Option<Events>,
    _node: Node<Service>,
}

fn names(job: &Job) -> (String, String) {
    let (there, back) = (format!("{}/there", job.name), format!("{}/back", job.name));
    if job.side == Side::Near { (there, back) } else { (back, there) }
}

impl<const N: usize> Samples<N> {
    fn new(job: &Job, link: &Link) -> Result<Self> {
        let node = node()?;
        let (output, input) = names(job);
        // One after the other: a service is made by one.
        if job.side == Side::Far {
            link.meet()?;
        }
        let ends = ports(&node, &output, &input)?;
        let waits = matches!(job.work, Work::Blocking | Work::Asleep);
        let events = waits.then(|| events(&node, &output, &input)).transpose()?;
        if job.side == Side::Near {
            link.meet()?;
        }
        // Both are there: now each connects with the other, for a full queue nobody is connected with is dropped from.
        link.meet()?;
        ends.0.update_connections()?;
        ends.1.has_samples()?;
        Ok(Self { output: ends.0, input: ends.1, events, _node: node })
    }
}

fn publish<const N: usize>(
    publisher: &Publisher<Service, [u8; N], ()>,
    message: &[u8; N],
) -> Result<usize> {
    let mut sample = publisher.loan_uninit()?;
    sample.payload_mut().write(*message);
    // SAFETY: written whole in the line above.
    let sample = unsafe { sample.assume_init() };
    Ok(sample.send()?)
}

impl<const N: usize> Ends<N> for Samples<N> {
    fn near(job: &Job, links: &[Link]) -> Result<Self> {
        Self::new(job, &links[0])
    }

    fn far(job: &Job, link: &Link) -> Result<Self> {
        Self::new(job, link)
    }

    #[inline]
    fn send(&mut self, message: &[u8; N]) -> Result<()> {
        publish(&self.output, message)?;
        if let Some(events) = &self.events {
            events.notifier.notify()?;
        }
        Ok(())
    }

    #[inline]
    fn recv(&mut self, room: &mut [u8; N]) -> Result<()> {
        loop {
            if let Some(sample) = self.input.receive()? {
                *room = *sample.payload();
                return Ok(());
            }
            match &self.events {
                Some(events) => {
                    events.listener.blocking_wait(|_| {})?;
                }
                None => spin_loop(),
            }
        }
    }
}

/// Many to one: the near side receives.
pub(crate) struct Fan<const N: usize> {
    output: Option<Publisher<Service, [u8; N], ()>>,
    input: Option<Subscriber<Service, [u8; N], ()>>,
    _node: Node<Service>,
}

impl<const N: usize> Ends<N> for Fan<N> {
    fn near(job: &Job, links: &[Link]) -> Result<Self> {
        let node = node()?;
        let input = service(&node, &job.name, job.far)?.subscriber_builder().create()?;
        links.iter().try_for_each(Link::meet)?;
        // All are there: now it connects with them.
        links.iter().try_for_each(Link::meet)?;
        input.has_samples()?;
        Ok(Self { output: None, input: Some(input), _node: node })
    }

    fn far(job: &Job, link: &Link) -> Result<Self> {
        link.meet()?;
        let node = node()?;
        let output = service(&node, &job.name, job.far)?
            .publisher_builder()
            .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
            .create()?;
        output.update_connections()?;
        link.meet()?;
        Ok(Self { output: Some(output), input: None, _node: node })
    }

    #[inline]
    fn send(&mut self, message: &[u8; N]) -> Result<()> {
        publish(self.output.as_ref().ok_or("only the far side sends")?, message)?;
        Ok(())
    }

    #[inline]
    fn recv(&mut self, room: &mut [u8; N]) -> Result<()> {
        let input = self.input.as_ref().ok_or("only the near side receives")?;
        loop {
            if let Some(sample) = input.receive()? {
                *room = *sample.payload();
                return Ok(());
            }
            spin_loop();
        }
    }
}

/// How often this process has attached for large messages.
static TIMES: AtomicU32 = AtomicU32::new(0);

/// Large messages, as slices, and sums back.
pub(crate) struct Slices {
    output: Publisher<Service, [u8], ()>,
    input: Subscriber<Service, [u8], ()>,
    sums: Publisher<Service, [u8; 8], ()>,
    answers: Subscriber<Service, [u8; 8], ()>,
    _node: Node<Service>,
}

impl Slices {
    fn new(job: &Job, link: &Link) -> Result<Self> {
        if job.side == Side::Far {
            link.meet()?;
        }
        let node = node()?;
        // New services each time: the far side may still have the old ones.
        let time = TIMES.fetch_add(1, Relaxed);
        let (output, input) = names(job);
        let (output, input) = (format!("{output}{time}"), format!("{input}{time}"));
        let open = |name: &str| -> Result<_> {
            Ok(node
                .service_builder(&name.try_into()?)
                .publish_subscribe::<[u8]>()
                .enable_safe_overflow(false)
                .subscriber_max_buffer_size(2)
                .subscriber_max_borrowed_samples(2)
                .max_publishers(2)
                .max_subscribers(2)
                .open_or_create()?)
        };
        // Only one direction carries much.
        let len = if job.side == Side::Near { job.size } else { 8 };
        let publisher = open(&output)?
            .publisher_builder()
            .initial_max_slice_len(len)
            .allocation_strategy(AllocationStrategy::Static)
            .max_loaned_samples(1)
            .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
            .create()?;
        let subscriber = open(&input)?.subscriber_builder().create()?;
        let (sums, answers) = ports(&node, &format!("{output}-sum"), &format!("{input}-sum"))?;
        let slices = Self { output: publisher, input: subscriber, sums, answers, _node: node };
        if job.side == Side::Near {
            link.meet()?;
        }
        link.meet()?;
        slices.output.update_connections()?;
        slices.input.has_samples()?;
        slices.sums.update_connections()?;
        slices.answers.has_samples()?;
        link.meet()?;
        Ok(slices)
    }
}

impl Large for Slices {
    fn near(job: &Job, link: &Link) -> Result<Self> {
        Self::new(job, link)
    }

    fn far(job: &Job, link: &Link) -> Result<Self> {
        Self::new(job, link)
    }

    fn put(&mut self, source: &[u8]) -> Result<()> {
        self.output.loan_slice_uninit(source.len())?.write_from_slice(source).send()?;
        Ok(())
    }

    fn take(&mut self, size: usize) -> Result<u64> {
        loop {
            if let Some(sample) = self.input.receive()? {
                if sample.payload().len() != size {
                    return Err("a message of another length".into());
                }
                return Ok(large::sum(sample.payload()));
            }
            spin_loop();
        }
    }

    fn answer(&mut self, sum: u64) -> Result<()> {
        publish(&self.sums, &sum.to_ne_bytes())?;
        Ok(())
    }

    fn answered(&mut self) -> Result<u64> {
        loop {
            if let Some(sample) = self.answers.receive()? {
                return Ok(u64::from_ne_bytes(*sample.payload()));
            }
            spin_loop();
        }
    }
}

/// Sends one message to whoever comes, by name.
pub(crate) fn start_sending(name: &str) -> Result<Box<dyn std::any::Any>> {
    let node = node()?;
    let publisher = service::<64>(&node, name, 2)?.publisher_builder().create()?;
    while publish(&publisher, &[7; 64])? == 0 {
        std::thread::yield_now();
    }
    Ok(Box::new((node, publisher)))
}

/// Receives one message, by name.
pub(crate) fn start_receiving(name: &str) -> Result<()> {
    let node = node()?;
    let subscriber = service::<64>(&node, name, 2)?.subscriber_builder().create()?;
    while subscriber.receive()?.is_none() {
        std::thread::yield_now();
    }
    Ok(())
}
