//! The host's end of the talk with the chain loader: a request is repeated until it is answered.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use chain::{
    Answer, Collected, Collector, FIRST_BAUD, Here, MAX_BYTES, MAX_FRAME, Numbered, Request, Why,
};
use wire::{Deframer, Item};

use crate::interrupt;
use crate::record::Received;
use crate::serial::Line;

/// How often a request is repeated before the line counts as dead.
const TRIES: u32 = 20;
/// How long an answer may take, besides the time that the bytes take on the line: USB adapters hold
/// bytes back for 16 ms, and an emulated board runs when its host has time.
const PATIENCE: Duration = Duration::from_millis(400);
/// For work of the loader's, for each byte: it has no data cache.
const PER_BYTE: Duration = Duration::from_nanos(2_000);
/// How much memory is checked by one request.
const CHECK: usize = 64 << 10;

/// An answer that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Who is there.
    Here(Here),
    /// The rate from now on.
    Baud(u32),
    /// Bytes of the device tree, of so many.
    Tree(u32, Vec<u8>),
    /// A fact.
    Fact(String, u64),
    /// Written.
    Written,
    /// A CRC.
    Checked(u32),
    /// It goes.
    Going,
    /// It will not.
    Refused(Why),
}

impl Reply {
    fn of(answer: Answer<'_>) -> Option<Self> {
        Some(match answer {
            Answer::Here(here) => Self::Here(here),
            Answer::Baud { baud } => Self::Baud(baud),
            Answer::Tree { total, bytes } => Self::Tree(total, bytes.to_vec()),
            Answer::Fact { name, value } => Self::Fact(name.to_owned(), value),
            Answer::Written => Self::Written,
            Answer::Checked { crc } => Self::Checked(crc),
            Answer::Going => Self::Going,
            Answer::Refused(why) => Self::Refused(why),
            Answer::Damaged => return None,
        })
    }
}

/// What a wait for an answer came to.
enum Heard {
    Reply(Reply),
    /// The loader says that what it got made no sense: no need to wait any longer.
    Damaged,
    Silence,
}

/// The loader, as its line's other end.
pub struct Client {
    line: Line,
    baud: u32,
    number: u16,
    collector: Box<Collector>,
    /// Received, and not looked at yet.
    rest: Vec<u8>,
    /// The longest that an answer took: the next ones may take twice that.
    slowest: Duration,
    /// Requests that were sent again.
    pub repeated: u64,
}

impl Client {
    /// On an open line, at the first rate.
    pub fn new(line: Line) -> Self {
        Self {
            line,
            baud: FIRST_BAUD,
            number: 0,
            collector: Box::new(Collector::new()),
            rest: Vec::new(),
            slowest: Duration::ZERO,
            repeated: 0,
        }
    }

    /// Waits until the loader answers: until somebody switches the board on.
    pub fn meet(&mut self) -> Result<Here> {
        loop {
            ensure!(!interrupt::requested(), "ended by Ctrl-C");
            if let Some(Reply::Here(here)) = self.try_ask(Request::Hello, 0, 1)? {
                ensure!(
                    here.version == chain::VERSION,
                    "the loader on the card speaks version {} of its protocol, and this tool version \
                     {}: write the card anew (cowscope image --loader)",
                    here.version,
                    chain::VERSION
                );
                return Ok(here);
            }
        }
    }

    /// Changes the rate on both sides, and tries it. False if it does not work, at the old rate.
    pub fn raise(&mut self, baud: u32) -> Result<bool> {
        match self.ask(Request::Baud { baud })? {
            Reply::Baud(_) => {}
            _ => return Ok(false),
        }
        if self.line.set_rate(baud).is_err() {
            self.line.set_rate(FIRST_BAUD)?;
        } else {
            self.baud = baud;
            if let Some(Reply::Here(_)) = self.try_ask(Request::Hello, 0, 4)? {
                return Ok(true);
            }
            self.line.set_rate(FIRST_BAUD)?;
            self.baud = FIRST_BAUD;
        }
        // The loader goes back by itself.
        std::thread::sleep(Duration::from_micros(chain::RATE_TRIAL));
        self.meet()?;
        Ok(false)
    }

    /// The device tree that the firmware left; empty if none.
    pub fn tree(&mut self, here: &Here) -> Result<Vec<u8>> {
        let mut tree = Vec::new();
        while tree.len() < here.tree as usize {
            let offset = tree.len() as u32;
            match self.ask(Request::Tree { offset })? {
                Reply::Tree(total, bytes) if total == here.tree && !bytes.is_empty() => {
                    tree.extend(bytes);
                }
                other => bail!("the loader gives no device tree: {other:?}"),
            }
        }
        ensure!(
            tree.len() == here.tree as usize,
            "a device tree with too much in it"
        );
        Ok(tree)
    }

    /// All that the loader knows of the machine.
    pub fn facts(&mut self) -> Result<Vec<(String, u64)>> {
        let mut facts = Vec::new();
        for index in 0..=u8::MAX {
            match self.ask(Request::Fact { index })? {
                Reply::Fact(name, value) => facts.push((name, value)),
                _ => break,
            }
        }
        Ok(facts)
    }

    /// Writes bytes to memory, and has them checked there. What is there already, from an earlier
    /// attempt or before a reset, is not sent again.
    pub fn write(&mut self, at: u64, bytes: &[u8], mut done: impl FnMut(usize)) -> Result<()> {
        let mut address = at;
        for block in bytes.chunks(CHECK) {
            if !self.has(address, block)? {
                self.write_block(address, block)?;
                ensure!(
                    self.has(address, block)?,
                    "what is in the board's memory at {address:#x} is not what was sent"
                );
            }
            address += block.len() as u64;
            done(block.len());
        }
        Ok(())
    }

    fn has(&mut self, address: u64, block: &[u8]) -> Result<bool> {
        let mut wanted = chain::Checksum::new();
        wanted.take(block);
        let len = block.len() as u64;
        match self.ask(Request::Check { address, len })? {
            Reply::Checked(crc) => Ok(crc == wanted.finish()),
            other => bail!("the loader does not read at {address:#x}: {other:?} (is there RAM?)"),
        }
    }

    fn write_block(&mut self, mut address: u64, block: &[u8]) -> Result<()> {
        for bytes in block.chunks(MAX_BYTES) {
            match self.ask(Request::Write { address, bytes })? {
                Reply::Written => {}
                other => bail!("the loader does not write to {address:#x}: {other:?}"),
            }
            address += bytes.len() as u64;
        }
        Ok(())
    }

    /// Starts the kernel: the line, and what the kernel has said already.
    pub fn go(mut self, entry: u64, tree: u64) -> Result<(Line, Vec<u8>)> {
        let request = Request::Go { entry, tree };
        self.number = self.number.wrapping_add(1);
        for _ in 0..TRIES {
            let mut said = Vec::new();
            self.send(request)?;
            // If the loader's last word is lost on the line, the kernel's first ones tell.
            let mut kernel = Deframer::default();
            let heard = self.listen(Duration::from_millis(1500), Some(&mut said), |bytes| {
                let mut bytes = bytes;
                let mut found = false;
                while let Some(item) = kernel.next(&mut bytes) {
                    found |= matches!(item, Item::Frame(_));
                }
                found
            })?;
            match heard {
                Heard::Reply(Reply::Going) => return Ok((self.line, self.rest)),
                Heard::Reply(other) => bail!("the loader does not start the kernel: {other:?}"),
                Heard::Silence if !said.is_empty() && kernel.counts().frames > 0 => {
                    return Ok((self.line, said));
                }
                _ => self.repeated += 1,
            }
        }
        bail!("the loader does not answer to being told to start the kernel")
    }

    /// Asks until there is an answer.
    fn ask(&mut self, request: Request<'_>) -> Result<Reply> {
        let work = match request {
            Request::Write { bytes, .. } => bytes.len() as u64,
            Request::Check { len, .. } => len,
            Request::Tree { .. } => MAX_BYTES as u64,
            _ => 0,
        };
        self.try_ask(request, work, TRIES)?
            .context("the loader does not answer any more: is the board still on?")
    }

    fn try_ask(&mut self, request: Request<'_>, work: u64, tries: u32) -> Result<Option<Reply>> {
        self.number = self.number.wrapping_add(1);
        for index in 0..tries {
            if interrupt::requested() {
                bail!("ended by Ctrl-C");
            }
            self.repeated += u64::from(index > 0);
            let sent = self.send(request)?;
            // There and back, ten bits a byte; an answer is no longer than a request can be.
            let bytes = sent as u64 + work.min(MAX_BYTES as u64) + 64;
            let on_the_line = Duration::from_micros(bytes * 10_000_000 / u64::from(self.baud));
            let patience = PATIENCE + on_the_line + PER_BYTE * work as u32;
            let asked = Instant::now();
            if let Heard::Reply(reply) =
                self.listen(patience + 2 * self.slowest, None, |_| false)?
            {
                self.slowest = self.slowest.max(asked.elapsed());
                return Ok(Some(reply));
            }
        }
        Ok(None)
    }

    fn send(&mut self, body: Request<'_>) -> Result<usize> {
        let (mut scratch, mut frame) = ([0; MAX_FRAME], [0; MAX_FRAME]);
        let message = Numbered {
            number: self.number,
            body,
        };
        let n = chain::encode(&message, &mut scratch, &mut frame)
            .map_err(|_| anyhow::anyhow!("a request that is too long"))?;
        self.line.send(&frame[..n])?;
        Ok(n)
    }

    /// Listens for the answer to the last request; `said` collects all that comes, and `enough` of
    /// it ends the wait.
    fn listen(
        &mut self,
        patience: Duration,
        mut said: Option<&mut Vec<u8>>,
        mut enough: impl FnMut(&[u8]) -> bool,
    ) -> Result<Heard> {
        let deadline = Instant::now() + patience;
        let mut buffer = vec![0; 16 << 10];
        let mut damaged = false;
        loop {
            let mut taken = 0;
            let mut reply = None;
            for &byte in &self.rest {
                taken += 1;
                let Some(Collected::Message(message)) = self.collector.take(byte) else {
                    continue;
                };
                let Some(answer) = chain::decode::<Answer<'_>>(message) else {
                    continue;
                };
                damaged |= answer.body == Answer::Damaged;
                if answer.number == self.number
                    && let Some(found) = Reply::of(answer.body)
                {
                    reply = Some(found);
                    break;
                }
            }
            self.rest.drain(..taken);
            if let Some(reply) = reply {
                return Ok(Heard::Reply(reply));
            }
            if damaged {
                return Ok(Heard::Damaged);
            }
            if Instant::now() >= deadline {
                return Ok(Heard::Silence);
            }
            match self.line.receive(&mut buffer)? {
                Received::Bytes(n) => {
                    self.rest.extend_from_slice(&buffer[..n]);
                    if let Some(said) = &mut said {
                        said.extend_from_slice(&buffer[..n]);
                    }
                    if enough(&buffer[..n]) {
                        return Ok(Heard::Silence);
                    }
                }
                Received::Nothing | Received::Plugged | Received::Unplugged => {}
                Received::End => bail!("the other end of the line is gone"),
            }
        }
    }
}
