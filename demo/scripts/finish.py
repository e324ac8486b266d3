def finish(data, nets, work, out, minutes): pass
