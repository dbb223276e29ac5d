//! A warp: its registers, and where its lanes are.

use super::{
    code::{Address, Base, Code},
    copy_async::Copies,
    registers::{LANES, Registers},
};

/// Lanes at the same instruction that are not the ones running.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    pub(crate) pc: u32,
    pub(crate) mask: u32,
    pub(crate) state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Ready,
    /// Waits at an instruction for other lanes of the warp to come to it.
    Converging,
    /// Waits at a barrier of the block.
    Barrier(u32),
}

pub(crate) struct Warp {
    pub(crate) index: u32,
    pub(crate) registers: Registers,
    /// The running lanes, all at `pc`; 0 when none can run.
    pub(crate) active: u32,
    pub(crate) pc: u32,
    pub(crate) others: Vec<Group>,
    /// Where the running lanes may meet others: at this pc or beyond it, look.
    pub(crate) meet: u32,
    /// Lanes that have not exited.
    pub(crate) live: u32,
    /// Instructions executed.
    pub(crate) executed: u64,
    /// Whether lanes did work while others waited for them at an aligned barrier.
    pub(crate) worked: bool,
    /// Local memory, lane by lane, and which of its bytes were written.
    pub(crate) local: Vec<u8>,
    pub(crate) local_written: Vec<bool>,
    /// For each watched register, the lanes that have written it.
    pub(crate) written: Vec<u32>,
    pub(crate) copies: Copies,
}

impl Warp {
    pub(crate) fn new(index: u32, code: &Code) -> Self {
        let local = code.local_bytes as usize * LANES;
        let mut registers = Registers::new(code.r, code.d, code.p);
        for &(slot, bits) in &code.constants {
            registers.r[slot as usize].0 = [bits; LANES];
        }
        for &(slot, bits) in &code.wide_constants {
            registers.d[slot as usize].0 = [bits; LANES];
        }
        Self {
            index,
            registers,
            active: 0,
            pc: 0,
            others: Vec::new(),
            meet: u32::MAX,
            live: 0,
            executed: 0,
            worked: false,
            local: vec![0; local],
            local_written: vec![false; local],
            written: vec![0; code.watched.len()],
            copies: Copies::default(),
        }
    }

    /// Back to the kernel's beginning, for `lanes`.
    pub(crate) fn reset(&mut self, lanes: u32) {
        (self.active, self.pc, self.live, self.meet) = (lanes, 0, lanes, u32::MAX);
        (self.executed, self.worked) = (0, false);
        self.others.clear();
        self.local_written.fill(false);
        self.written.fill(0);
        self.copies.clear();
    }

    /// The address operand of every lane.
    #[inline(always)]
    pub(crate) fn addresses(&self, address: &Address) -> [u64; LANES] {
        let offset = address.offset;
        match address.base {
            Base::None => [offset; LANES],
            Base::R(slot) => self.registers.r[slot as usize].0.map(|x| u64::from(x).wrapping_add(offset)),
            Base::D(slot) => self.registers.d[slot as usize].0.map(|x| x.wrapping_add(offset)),
        }
    }

    /// Whether some lanes are still to come to where the running ones are, or are behind them: meets those that are
    /// here, and lets the ones furthest behind run.
    pub(crate) fn reconverge(&mut self) {
        let (pc, mut met) = (self.pc, 0);
        self.others.retain(|group| {
            let here = group.pc == pc && !matches!(group.state, State::Barrier(_));
            if here {
                met |= group.mask;
            }
            !here
        });
        self.active |= met;
        let lowest =
            self.others.iter().enumerate().filter(|(_, group)| group.state == State::Ready).min_by_key(|(_, g)| g.pc);
        if let Some((at, &Group { pc, mask, .. })) = lowest
            && pc < self.pc
        {
            self.others[at] = Group { pc: self.pc, mask: self.active, state: State::Ready };
            (self.pc, self.active) = (pc, mask);
        }
        self.look_out();
    }

    /// Sets `meet`.
    pub(crate) fn look_out(&mut self) {
        self.meet = u32::MAX;
        for group in &self.others {
            match group.state {
                State::Ready => self.meet = self.meet.min(group.pc),
                State::Converging => self.meet = 0,
                State::Barrier(_) => {}
            }
        }
    }

    /// Sets lanes apart.
    pub(crate) fn park(&mut self, pc: u32, mask: u32, state: State) {
        if mask != 0 {
            self.others.push(Group { pc, mask, state });
        }
        self.active &= !mask;
        self.look_out();
    }

    /// Makes the ready group that is furthest behind the running one; whether there is one.
    pub(crate) fn next_group(&mut self) -> bool {
        let lowest =
            self.others.iter().enumerate().filter(|(_, group)| group.state == State::Ready).min_by_key(|(_, g)| g.pc);
        let Some((at, _)) = lowest else { return false };
        let group = self.others.swap_remove(at);
        (self.pc, self.active) = (group.pc, group.mask);
        self.reconverge();
        true
    }

    /// Lets the group that is furthest ahead run for a while: the one behind may be waiting for it.
    pub(crate) fn rotate(&mut self) {
        let highest =
            self.others.iter().enumerate().filter(|(_, group)| group.state == State::Ready).max_by_key(|(_, g)| g.pc);
        if let Some((at, &Group { pc, mask, .. })) = highest {
            self.others[at] = Group { pc: self.pc, mask: self.active, state: State::Ready };
            (self.pc, self.active) = (pc, mask);
            self.meet = u32::MAX;
        }
    }

    /// Ends lanes; those that wait for lanes of the warp look again.
    pub(crate) fn exit(&mut self, mask: u32) {
        self.live &= !mask;
        self.active &= !mask;
        for group in &mut self.others {
            if group.state == State::Converging {
                group.state = State::Ready;
            }
        }
        self.look_out();
    }
}
