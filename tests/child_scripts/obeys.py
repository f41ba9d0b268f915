"""For test_child: a child that obeys, also where it must not."""

import os
import signal
import time

prepared = 0


def prepare(request):
    global prepared
    prepared += 1
    for do in request.get("do", ()):
        answer(None, {"do": do})
    return {"answers": 0}


def answer(state, request):
    do = request["do"]
    if do == "report":
        state["answers"] += 1
        return [prepared, state["answers"], os.getppid(), os.getpid()]
    if do == "loop":
        while True:
            pass
    if do == "sleep":
        time.sleep(60)
    if do == "eat":
        return len(bytearray(request.get("n", 2 << 30)))
    if do == "eat slowly":
        kept = []
        while True:
            kept.append(bytearray(1 << 20))
    if do == "chatter":
        return "x" * request.get("n", 2 << 20)
    if do == "burn":
        while time.process_time() < 1.2:
            pass
    if do == "print":
        for _ in range(1 << 14):
            os.write(1, bytes(1 << 20))
    if do == "write":
        with open(request["path"], "wb") as file:
            file.write(bytes(100))
    if do == "fork":
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(60)
        return pid
    if do == "fork and die":
        pid = os.fork()
        if pid == 0:
            time.sleep(60)
        os.kill(os.getpid(), signal.SIGSEGV)
    if do == "flood":
        for fd in range(3, 100):
            try:
                os.write(fd, b"\xff" * 100)
            except OSError:
                pass
        time.sleep(60)
    if do == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    if do == "exit":
        raise SystemExit(5)
    if do == "kill parent":
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    return do
