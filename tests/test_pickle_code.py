"""Code in a `.pth` file is refused by its name, and not run."""

import pickle

import numpy as np
import pytest
from pth_writer import (
    MAGIC,
    WRITERS,
    Call,
    Global,
    Persistent,
    Raw,
    State,
    pickled,
)

from resnet_keras.weights.formats import read

WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)


# A payload that touches the file MARK if anything runs it, and the name that the refusal must say.
ORDERED = Global("collections", "OrderedDict")
RUNS = "__import__('pathlib').Path('MARK').touch()"
PAYLOADS = {
    "system": (Call(Global("os", "system"), ("touch MARK",)), "os.system"),
    "posix": (Call(Global("posix", "system"), ("touch MARK",)), "posix.system"),
    "eval": (Call(Global("__builtin__", "eval"), (RUNS,)), "builtins.eval"),
    "exec": (Call(Global("builtins", "exec"), (RUNS,)), "builtins.exec"),
    "popen": (Call(Global("subprocess", "Popen"), (["touch", "MARK"],)), "subprocess.Popen"),
    "inst": (Raw(b"(X\x0a\0\0\0touch MARKios\nsystem\n"), "os.system"),
    "obj": (Raw(b"(cos\nsystem\nX\x0a\0\0\0touch MARKo"), "os.system"),
    "stack global": (
        Raw(b"X\x02\0\0\0osX\x06\0\0\0system\x93X\x0a\0\0\0touch MARK\x85R"),
        "os.system",
    ),
    "through getattr": (
        Call(Call(Global("builtins", "getattr"), (ORDERED, "update")), ({},)),
        "builtins.getattr",
    ),
    "state": (State(Call(ORDERED, ()), Call(Global("os", "system"), ("touch MARK",))), "os.system"),
    "never called": (Global("os", "system"), "os.system"),
    "inside torch": (Call(Global("torch.hub", "load"), ("a/b", "c")), "torch.hub.load"),
    "inside numpy": (Call(Global("numpy", "load"), ("x.npy",)), "numpy.load"),
    "beside the tensors": (
        Global("torch._utils", "_import_dotted_name"),
        "torch._utils._import_dotted_name",
    ),
    "dotted": (Global("collections", "OrderedDict.fromkeys"), "collections.OrderedDict.fromkeys"),
    "whole model": (Raw(b"ctorchvision.models\nResNet\n)\x81"), "torchvision.models.ResNet"),
}
PLACES = {
    "root": lambda payload: payload,
    "beside": lambda payload: {"meta": {"deep": [(payload,)]}, "state_dict": {"w": WEIGHT}},
    "a tensor": lambda payload: {"state_dict": {"w": payload, "v": WEIGHT}},
    "hooks": lambda payload: {
        "w": Call(Global("torch._utils", "_rebuild_parameter"), (WEIGHT, True, payload))
    },
    "persistent id": lambda payload: {"w": Persistent(("storage", payload, "0", "cpu", 1))},
}


@pytest.mark.parametrize("place", PLACES)
def test_code_is_refused_by_name_and_not_run(tmp_path, monkeypatch, write, place):
    monkeypatch.chdir(tmp_path)
    for name, (payload, refused) in PAYLOADS.items():
        write("x.pth", PLACES[place](payload))
        with pytest.raises(ValueError, match="nothing in it was run") as error:
            read("x.pth")
        message = str(error.value)
        assert message.startswith("x.pth ") and message.endswith(f"Received: '{refused}'"), name
        assert "\n" not in message and not (tmp_path / "MARK").exists(), name


@pytest.mark.parametrize("name", ["system", "posix", "eval", "inst", "obj", "stack global"])
def test_the_payloads_are_live(tmp_path, monkeypatch, name):
    """Python's own unpickler runs them: the test above could fail."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickled(PAYLOADS[name][0]))
    assert (tmp_path / "MARK").exists()


@pytest.mark.parametrize("part", range(5))
def test_code_in_every_pickle_of_the_older_format(tmp_path, monkeypatch, part):
    monkeypatch.chdir(tmp_path)
    parts = [pickled(value) for value in (MAGIC, 1001, {}, {}, [])]
    parts[part] = pickled(PAYLOADS["system"][0])
    (tmp_path / "x.pth").write_bytes(b"".join(parts))
    with pytest.raises(ValueError, match=r"Received: 'os\.system'$"):
        read("x.pth")
    assert not (tmp_path / "MARK").exists()


def test_code_in_a_pickle_of_protocol_0(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.pth").write_bytes(b"cos\nsystem\n(S'touch MARK'\ntR.")
    with pytest.raises(ValueError, match=r"Received: 'os\.system'$"):
        read("x.pth")
    assert not (tmp_path / "MARK").exists()


# What published exploits and scanners' lists name, family by family (picklescan's and fickling's
# lists, and what was found to slip through them).
GADGETS = """
    builtins.eval builtins.exec builtins.compile builtins.open builtins.__import__
    builtins.breakpoint builtins.apply builtins.map builtins.setattr builtins.globals builtins.vars
    builtins.type builtins.object builtins.print builtins.input builtins.memoryview __builtin__.eval
    __builtin__.file __builtin__.execfile __builtin__.reload os.system os.popen os.execv os.spawnl
    os.posix_spawn os.startfile os.remove os.putenv posix.system posix.execve nt.system nt.spawnve
    posixpath.expanduser subprocess.Popen subprocess.check_output subprocess.getoutput
    commands.getoutput popen2.popen2 sys.settrace sys.modules sys.exit importlib.import_module
    imp.load_source runpy._run_code runpy.run_path pkgutil.resolve_name zipimport.zipimporter
    site.main pydoc.locate pydoc.pipepager code.interact code.InteractiveInterpreter
    codeop.compile_command pdb.run pdb.Pdb bdb.Bdb profile.run cProfile.run cProfile.runctx
    timeit.timeit timeit.main trace.Trace doctest.debug_script
    test.support.script_helper.assert_python_ok idlelib.pyshell.ModifiedInterpreter
    idlelib.run.Executive idlelib.autocomplete.AutoComplete lib2to3.pgen2.grammar.Grammar
    lib2to3.pgen2.pgen.ParserGenerator ensurepip._run_pip venv.create pip.main pip._internal.main
    types.FunctionType types.CodeType types.SimpleNamespace functools.partial functools.reduce
    operator.attrgetter operator.itemgetter operator.methodcaller itertools.starmap marshal.loads
    pickle.loads pickle.Unpickler _pickle.loads dill.loads cloudpickle.loads joblib.load shelve.open
    copyreg._reconstructor copyreg.__newobj__ copyreg.add_extension shutil.rmtree shutil.copyfile
    tempfile.mktemp io.open io.FileIO _io.FileIO codecs.open codecs.decode
    fileinput.input linecache.getline glob.glob distutils.file_util.write_file socket.socket
    socket.create_connection ssl.get_server_certificate urllib.request.urlopen
    urllib.request.urlretrieve urllib.urlopen http.client.HTTPSConnection requests.api.get
    httplib.HTTPConnection aiohttp.client.ClientSession ftplib.FTP smtplib.SMTP telnetlib.Telnet
    xmlrpc.client.ServerProxy webbrowser.open antigravity.geohash
    asyncio.unix_events._UnixSubprocessTransport._start asyncio.create_subprocess_shell pty.spawn
    multiprocessing.util.spawnv_passfds concurrent.futures.process._process_worker signal.signal
    ctypes.CDLL ctypes.cdll cffi.FFI _ctypes.LoadLibrary logging.config.listen logging.FileHandler
    cgitb.enable warnings.catch_warnings weakref.finalize torch.load torch.save torch.hub.load
    torch.jit.load torch.serialization.load torch.storage._load_from_bytes
    torch.utils.model_zoo.load_url torch._inductor.codecache.compile_file
    torch.utils._config_module.ConfigModule.load_config torch.utils.bottleneck.__main__.run_cprofile
    torch.utils.collect_env.run torch.utils.data.datapipes.utils.decoder.basichandlers
    torch.fx.experimental.symbolic_shapes.ShapeEnv.evaluate_guards_expression torch.nn.Module
    torch._dynamo.guards.GuardBuilder.get torch.distributed.rpc.rpc_sync torch.cuda.memory._snapshot
    torch.FloatTensor torch.ops.load_library torch.classes.load_library torch._C._jit_compile
    numpy.load numpy.loads numpy.fromfile numpy.memmap numpy.testing._private.utils.runstring
    numpy.f2py.crackfortran.getlincoef numpy.f2py.crackfortran._eval_length
    numpy.distutils.exec_command pandas.read_pickle pandas.eval sklearn.externals.joblib.load
    keras.models.load_model tensorflow.io.read_file tensorflow.io.write_file transformers.AutoModel
    sympy.sympify collections.OrderedDict.__init__ collections.abc.Callable collections.namedtuple
    torch.FloatStorage.__reduce__ torch.nn.parameter.Parameter.__init__ argparse.FileType
    argparse.ArgumentParser datetime.datetime.now numpy.dtype.__reduce__ _codecs.decode
    torch.Size.__new__ torch.device.__reduce__ mmengine.logging.history_buffer.np
    mmengine.config.Config.fromfile mmcv.Config.fromfile mmcv.utils.config.Config
""".split()


@pytest.mark.parametrize("opcode", ["GLOBAL", "STACK_GLOBAL"])
def test_every_known_gadget_is_refused_by_name(tmp_path, monkeypatch, opcode):
    monkeypatch.chdir(tmp_path)
    for gadget in GADGETS:
        module, name = gadget.rsplit(".", 1)
        function = Global(module, name)
        if opcode == "STACK_GLOBAL":
            words = b"".join(b"\x8c" + bytes([len(w)]) + w.encode() for w in (module, name))
            function = Raw(words + b"\x93")
        payload = Call(function, ("touch MARK",))
        for number, write_ in enumerate(WRITERS.values()):
            write_("x.pth", [payload, {"state_dict": {"w": payload}}][number])
            with pytest.raises(ValueError, match="nothing in it was run") as error:
                read("x.pth")
            received = gadget.replace("__builtin__", "builtins")
            assert str(error.value).endswith(f"Received: {received!r}")
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]
