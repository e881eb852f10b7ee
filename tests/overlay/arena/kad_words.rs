//! Kademlia's messages as libp2p writes them (`dht.proto`), and `store/1`'s framing: spoken by hand, so that every field
//! can lie.

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::StreamProtocol;
use libp2p::request_response;
use prost::Message as _;
use std::io;

pub const PUT_VALUE: i32 = 0;
pub const GET_VALUE: i32 = 1;
pub const FIND_NODE: i32 = 4;

#[derive(Clone, PartialEq, prost::Message)]
pub struct KadRecord {
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct KadPeer {
    #[prost(bytes = "vec", tag = "1")]
    pub id: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub addresses: Vec<Vec<u8>>,
    #[prost(int32, tag = "3")]
    pub connection: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct KadMessage {
    #[prost(int32, tag = "1")]
    pub kind: i32,
    #[prost(bytes = "vec", tag = "2")]
    pub key: Vec<u8>,
    #[prost(message, optional, tag = "3")]
    pub record: Option<KadRecord>,
    #[prost(message, repeated, tag = "8")]
    pub closer: Vec<KadPeer>,
}

/// `varint length || message`, one each way.
#[derive(Clone, Debug)]
pub struct KadCodec;

/// `u32 length || bytes`, one each way (docs/protocol.md "store/1").
#[derive(Clone, Debug)]
pub struct StoreCodec;

const MOST: usize = 64 * 1024;

async fn read_varint(io: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
    let mut value = 0_usize;
    for shift in (0..21).step_by(7) {
        let mut byte = [0];
        io.read_exact(&mut byte).await?;
        value |= usize::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

async fn read_kad(io: &mut (impl AsyncRead + Unpin)) -> io::Result<KadMessage> {
    let mut bytes = vec![0; read_varint(io).await?.min(MOST)];
    io.read_exact(&mut bytes).await?;
    KadMessage::decode(&bytes[..]).map_err(|_| io::ErrorKind::InvalidData.into())
}

async fn write_kad(io: &mut (impl AsyncWrite + Unpin), message: &KadMessage) -> io::Result<()> {
    io.write_all(&message.encode_length_delimited_to_vec()).await
}

impl request_response::Codec for KadCodec {
    type Protocol = StreamProtocol;
    type Request = KadMessage;
    type Response = KadMessage;

    async fn read_request<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<KadMessage> {
        read_kad(io).await
    }

    async fn read_response<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<KadMessage> {
        read_kad(io).await
    }

    async fn write_request<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        message: KadMessage,
    ) -> io::Result<()> {
        write_kad(io, &message).await
    }

    async fn write_response<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        message: KadMessage,
    ) -> io::Result<()> {
        write_kad(io, &message).await
    }
}

async fn read_store(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Bytes> {
    let mut length = [0; 4];
    io.read_exact(&mut length).await?;
    let mut bytes = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap_or(MOST).min(MOST)];
    io.read_exact(&mut bytes).await?;
    Ok(bytes.into())
}

async fn write_store(io: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    io.write_all(&[&length.to_be_bytes()[..], bytes].concat()).await
}

impl request_response::Codec for StoreCodec {
    type Protocol = StreamProtocol;
    type Request = Bytes;
    type Response = Bytes;

    async fn read_request<T: AsyncRead + Unpin + Send>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Bytes> {
        read_store(io).await
    }

    async fn read_response<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Bytes> {
        read_store(io).await
    }

    async fn write_request<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        question: Bytes,
    ) -> io::Result<()> {
        write_store(io, &question).await
    }

    async fn write_response<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        reply: Bytes,
    ) -> io::Result<()> {
        write_store(io, &reply).await
    }
}
