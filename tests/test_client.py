"""notebooks/client.py: a reply that comes while the client sends is seen at once."""

import asyncio
import time

import client
import pytest
import zmq
import zmq.asyncio


@pytest.fixture
def sockets():
    """An asyncio socket and its peer."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as peer:
        port = peer.bind_to_random_port("tcp://127.0.0.1")
        with zmq.asyncio.Context(context).socket(zmq.DEALER) as socket:
            socket.connect(f"tcp://127.0.0.1:{port}")
            yield socket, peer
            socket.close(linger=0)
        peer.close(linger=0)


def test_a_reply_that_comes_just_before_a_send_is_seen(sockets):
    socket, peer = sockets
    session = client.Attentive()

    async def reply_and_send():
        session.send(socket, "execute_request")
        who, *_ = peer.recv_multipart()
        waiting = asyncio.ensure_future(socket.poll(20_000))
        await asyncio.sleep(0.1)
        peer.send_multipart([who, b"reply"])
        time.sleep(0.1)  # the client is busy with the output of a cell while the reply comes
        session.send(socket, "comm_msg")
        return await asyncio.wait_for(waiting, 5)

    assert asyncio.run(reply_and_send()) == zmq.POLLIN


def test_cells_of_widgets_run_without_a_stall(capsys):
    assert client.main(["--cells", "12"]) == 0
    assert capsys.readouterr().out.startswith("12 cells, 0 stalls, ")


def test_a_cell_that_takes_as_long_as_the_limit_fails_the_trial(monkeypatch, capsys):
    monkeypatch.setattr(client, "LIMIT", 0)
    assert client.main(["--cells", "2"]) == 1
    assert capsys.readouterr().out.startswith("2 cells, 2 stalls, ")
