"""A correction seen in a browser, in Slicer's own slice views, without Slicer.

gate.py      the one address: checks token, host and origin, and passes each page on to its session
lifetime.py  starts and ends the processes of sessions
session.py   the process of one session: a trame server that only the gate can reach
page.py      what the page shows, and what happens when something is pressed
scene.py     volumes and three linked slice views in an MRML scene (slicer-core, trame-slicer)
job.py       one correction in a process of its own
uploads.py   files that a browser sends: limits, archives
moments.py   the motion over the scan, and where a moment of it is seen

This room alone imports slicer and vtk, from the extra ``viewer``.
"""
