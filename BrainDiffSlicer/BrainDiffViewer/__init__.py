"""A correction seen in a browser, in Slicer's own slice views, without Slicer.

gate.py     the one address: checks token, host and origin, starts a process for each page, passes on what is asked
session.py  that process: a trame server that only the gate can reach
page.py     what the page shows, and what happens when something is pressed
scene.py    volumes and three linked slice views in an MRML scene (slicer-core, trame-slicer)
job.py      one correction in a process of its own
files.py    uploads, with their limits, and results
moments.py  the motion over the scan, and where a moment of it is seen
"""
