//! What completions are told apart by.

use super::receive::Form;

/// What a completion belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// An order, or who gives them.
    Order,
    /// A receive on the input with this number.
    Receive(u16),
    /// A no-operation that only ends a wait.
    Wake,
    /// The send with this place in its batch.
    Send(u32),
    /// The end of other operations.
    Cancel,
}

/// What an entry's user data say: the token, the buffer of a receive that brings its own, and what a receive leaves in its buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UserData {
    pub(super) token: Token,
    pub(super) buffer: Option<u16>,
    pub(super) form: Form,
}

impl UserData {
    // Bits 0..32: a number; 32..48: the buffer; 48: whether there is one; 49..51: the form; 56..: the kind of token.
    pub(super) fn pack(self) -> u64 {
        let (kind, number) = match self.token {
            Token::Order => (0, 0),
            Token::Receive(input) => (1, u64::from(input)),
            Token::Wake => (2, 0),
            Token::Send(place) => (3, u64::from(place)),
            Token::Cancel => (4, 0),
        };
        let form = match self.form {
            Form::Plain => 0,
            Form::Multishot => 1,
            Form::Once => 2,
        };
        let buffer = self.buffer.map_or(0, |buffer| 1 << 48 | u64::from(buffer) << 32);
        kind << 56 | form << 49 | buffer | number
    }

    pub(super) fn unpack(data: u64) -> Self {
        let token = match data >> 56 {
            0 => Token::Order,
            1 => Token::Receive(data as u16),
            2 => Token::Wake,
            3 => Token::Send(data as u32),
            _ => Token::Cancel,
        };
        let form = match data >> 49 & 3 {
            1 => Form::Multishot,
            2 => Form::Once,
            _ => Form::Plain,
        };
        Self { token, buffer: (data >> 48 & 1 != 0).then_some((data >> 32) as u16), form }
    }
}
